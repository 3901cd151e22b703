"""`compress`: budgets in, the network that fits out; stop and go on; refusals."""

import json
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from tests.compression.toys import EXAMPLE, FakeWatch, Net, equal, rows, scans, task

from penjing.compression import Compressed, compress
from penjing.compression.bench import Bench
from penjing.errors import (
    BudgetError,
    CheckpointError,
    InfeasibleError,
    InputError,
    StrategyError,
    UnavailableError,
)
from penjing.plan import Plan
from penjing.report import Report, ReportData


@pytest.fixture(autouse=True)
def watch(monkeypatch):
    return FakeWatch().install(monkeypatch)


BUDGET = {"flash_kb": 1.8}  # known only once it is measured, so that several are tried


def fit(constraints, **given):
    data = {} if "task" in given else {"calibration": [scans()]}
    return compress(Net(), EXAMPLE, constraints=constraints, **data, **given)


class Run(NamedTuple):
    """A finished call; what several tests look at is made once."""

    result: Compressed
    folder: Path
    measured: int

    @classmethod
    def of(cls, constraints, folder, **given):
        with pytest.MonkeyPatch.context() as patch:
            watch = FakeWatch().install(patch)
            result = fit(constraints, workdir=folder, **given)
        return cls(result, folder, watch.measured)

    def copied(self, folder):
        """Its folder again, to go on in."""
        return shutil.copytree(self.folder, folder / "copy")


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    return Run.of(BUDGET, tmp_path_factory.mktemp("searched"))


@pytest.fixture(scope="module")
def halved(tmp_path_factory):
    return Run.of({"macs": "50%"}, tmp_path_factory.mktemp("halved"))


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    return Run.of({"macs": "60%"}, tmp_path_factory.mktemp("judged"), task=task()).result


@pytest.fixture(scope="module")
def resumed(searched, tmp_path_factory):
    """The same search, killed at its third network and called again."""
    folder = tmp_path_factory.mktemp("killed")
    with pytest.MonkeyPatch.context() as patch:
        FakeWatch(dies_at=3).install(patch)
        with pytest.raises(KeyboardInterrupt):
            fit(BUDGET, workdir=folder)
        after = FakeWatch().install(patch)
        after.original = searched.result.report.before.macs
        return Run(fit(BUDGET, workdir=folder), folder, after.measured)


# ------------------------------------------------------------------ budgets


@pytest.mark.parametrize("name", ["macs", "params", "ram_kb"])
def test_an_exact_budget_takes_one_candidate(name):
    assert len(fit({name: "60%"}).pareto) == 1


def test_the_network_keeps_its_budget_of_macs(halved):
    report = halved.result.report
    assert report.after.macs <= 0.5 * report.before.macs


def test_the_network_computes_what_the_report_counted():
    result = fit({"params": "50%"})
    assert sum(p.numel() for p in result.model.parameters()) == result.report.after.params


def test_a_latency_budget_gives_the_largest_network_within_it():
    report = fit({"latency_ms": "50%"}, round_to=1).report
    assert 0.35 <= report.after.macs / report.before.macs <= 0.5


def test_where_latency_is_bounded_channels_come_in_fours():
    result = fit({"latency_ms": "80%"})
    assert result.model.first.out_channels % 4 == 0


def test_all_budgets_hold_at_once():
    result = fit({"flash_kb": 2.2, "macs": "70%", "max_drop": 0.9})
    assert next(row for row in result.pareto if row.kept).meets


def test_the_smallest_network_within_a_drop_is_chosen():
    result = fit({"max_drop": 0.5})
    meeting = [row.macs for row in result.pareto if row.meets]
    assert result.report.after.macs == min(meeting)


def test_an_original_that_meets_every_budget_is_given_back():
    result = fit({"latency_ms": 11})
    assert equal(result.model, Net())
    assert any("nothing was cut" in note for note in result.report.data.notes)


def test_a_slower_network_is_never_a_win_in_latency(monkeypatch):
    FakeWatch(lambda share: 1.0 if share == 1 else 0.9).install(monkeypatch)
    with pytest.raises(InfeasibleError, match="latency_ms"):
        fit({"latency_ms": 12, "macs": "80%"})


def test_milliseconds_of_original_and_result_are_of_the_same_rounds(monkeypatch):
    FakeWatch(busy=1.5).install(monkeypatch)
    report = fit({"macs": "50%"}).report
    shown = report.before.latency_ms / report.after.latency_ms
    assert shown == pytest.approx(report.ratios["latency_ms"])


def test_every_candidate_says_how_fast_it_is_beside_the_original(searched):
    kept = next(row for row in searched.result.pareto if row.kept)
    assert kept.speedup == searched.result.report.after.latency.ratio


def test_fewer_macs_that_are_not_faster_are_said_to_be(monkeypatch):
    FakeWatch(lambda share: 1.0 if share == 1 else 0.9).install(monkeypatch)
    assert any("not faster" in note for note in fit({"macs": "50%"}).report.data.notes)


def test_an_infeasible_budget_names_the_nearest_point():
    with pytest.raises(InfeasibleError) as caught:
        fit({"flash_kb": 0.5})
    assert 1.0 < caught.value.nearest["flash_kb"] < 2.0


def test_an_infeasible_exact_budget_names_the_nearest_point():
    with pytest.raises(InfeasibleError) as caught:
        fit({"macs": 1})
    assert caught.value.nearest["macs"] > 1


# ------------------------------------------------------------------ what it leaves alone


def test_the_model_is_not_changed():
    model = Net().train()
    compress(model, EXAMPLE, constraints={"macs": "50%"}, calibration=[scans()])
    assert equal(model, Net())
    assert model.training


def test_random_states_are_not_moved():
    before = torch.get_rng_state()
    fit({"macs": "50%"})
    assert torch.equal(torch.get_rng_state(), before)


def test_the_same_seed_gives_the_same_network(halved):
    assert equal(fit({"macs": "50%"}).model, halved.result.model)


def test_one_shot_generators_serve_as_calibration():
    result = compress(
        Net(), EXAMPLE, constraints={"macs": "50%"}, calibration=(x for x in scans().split(16))
    )
    assert result.report.data.choices["calibration samples"] == "77"


# ------------------------------------------------------------------ labels


def test_candidates_are_compared_on_validation_data(judged):
    assert judged.report.data.choices["candidates compared on"] == "val (accuracy)"


def test_without_validation_data_candidates_are_compared_by_agreement():
    result = fit({"macs": "50%"}, task=task(val=None))
    assert any("no validation data" in note for note in result.report.data.notes)


def test_test_data_is_read_only_after_the_last_candidate(watch):
    seen = []
    data = task().test

    def test_split():
        seen.append(watch.measured)
        return data

    fit({"max_drop": 0.4}, task=task(test=test_split), recovery=None)
    assert set(seen) == {watch.measured}


def test_the_report_has_the_metrics_of_the_test_data(judged):
    assert judged.report.data.metrics_before["accuracy"] == 1.0


def test_the_report_says_what_every_step_kept():
    tuned = fit({"macs": "50%"}, task=task(), recovery="finetune", epochs=2)
    rows = [r for r in tuned.report.data.recovery if r.figure == "accuracy"]
    assert [(r.split, r.step) for r in rows] == [
        (split, step) for split in ("val", "test") for step in ("cut", "repaired", "fine-tuned")
    ]
    ours = {s: task().evaluate(tuned.model, s)["accuracy"] for s in ("val", "test")}
    assert [r.after for r in rows if r.step == "fine-tuned"] == list(ours.values())
    assert rows[1].before == rows[0].after


def test_the_report_has_rows_per_class(judged):
    assert judged.report.data.per_class


def test_training_is_off_when_it_is_not_wanted():
    with pytest.raises(InfeasibleError) as caught:
        fit({"macs": "10%", "max_drop": 0.0}, task=task(), recovery=None)
    assert "fine-tuned" not in str(caught.value)


def test_a_network_within_its_drop_is_not_trained():
    assert not fit({"macs": "90%", "max_drop": 0.9}, task=task()).report.data.epochs


def test_a_drop_that_is_not_met_is_trained_for(monkeypatch):
    trained = []
    original = Bench._trained
    monkeypatch.setattr(
        Bench, "_trained", lambda self, *given: trained.append(1) or original(self, *given)
    )
    with pytest.raises(InfeasibleError):
        fit({"macs": "10%", "max_drop": 0.0}, task=task())
    assert trained == [1]


def test_every_candidate_can_be_trained():
    report = fit({"macs": "50%"}, task=task(), recovery="finetune", epochs=2).report
    assert len(report.data.epochs) == 2


# ------------------------------------------------------------------ stop and go on


def test_a_search_that_was_killed_goes_on_where_it_was(searched, resumed):
    assert rows(resumed.result) == rows(searched.result)
    assert resumed.measured == len(searched.result.pareto) - 2


def test_a_killed_search_ends_with_the_same_network(searched, resumed):
    assert equal(resumed.result.model, searched.result.model)


def test_a_finished_search_makes_nothing_again(searched, tmp_path, watch):
    fit(BUDGET, workdir=searched.copied(tmp_path), minutes=1e-9)
    assert watch.measured == 0


def test_other_budgets_use_what_is_there(halved, tmp_path, watch):
    fit({"macs": halved.result.report.after.macs}, workdir=halved.copied(tmp_path))
    assert watch.measured == 0


def test_other_weights_use_nothing_that_is_there(halved, tmp_path, watch):
    budget, folder = {"macs": "50%"}, halved.copied(tmp_path)
    compress(Net(seed=5), EXAMPLE, constraints=budget, calibration=[scans()], workdir=folder)
    assert watch.measured == halved.measured


def test_other_data_use_nothing_that_is_there(halved, tmp_path, watch):
    budget, folder = {"macs": "50%"}, halved.copied(tmp_path)
    compress(Net(), EXAMPLE, constraints=budget, calibration=[scans(seed=7)], workdir=folder)
    assert watch.measured == halved.measured


def test_a_time_limit_leaves_the_first_candidate():
    assert len(fit({"macs": "50%"}, minutes=1e-9).pareto) == 1


def test_a_search_without_time_says_that_more_would_help():
    with pytest.raises(InfeasibleError, match="more minutes"):
        fit(BUDGET, minutes=1e-9)


def test_a_damaged_candidate_is_refused(halved, tmp_path):
    folder = halved.copied(tmp_path)
    for record in folder.glob("candidates/*/candidate.json"):
        record.write_text("{")
    with pytest.raises(CheckpointError, match="damaged"):
        fit({"macs": "50%"}, workdir=folder)


def test_the_folder_holds_the_report_of_the_result(halved):
    assert Report.read(halved.folder / "report.json") == halved.result.report


def test_every_candidate_has_its_plan_on_disk(searched):
    paths = searched.folder.glob("candidates/*/plan.json")
    plans = [Plan.from_json(path.read_text()) for path in paths]
    assert len(plans) == len(searched.result.pareto)


def test_the_report_survives_json(searched):
    data = searched.result.report.data
    assert ReportData.from_json(data.to_json()) == data


def test_one_candidate_is_marked_as_chosen(searched):
    assert sum(row.kept for row in searched.result.pareto) == 1


def test_the_time_spent_is_written_down(halved):
    assert next(iter(json.loads((halved.folder / "calls.json").read_text()).values())) > 0


# ------------------------------------------------------------------ refusals


def test_a_device_belongs_to_a_later_version():
    with pytest.raises(UnavailableError, match="device"):
        fit({"macs": "50%"}, device="stm32h743")


def test_no_data_at_all_is_refused():
    with pytest.raises(InputError, match="calibration=batches"):
        compress(Net(), EXAMPLE, constraints={"macs": "50%"})


def test_one_sample_is_refused():
    with pytest.raises(InputError, match="at least 2"):
        compress(Net(), EXAMPLE, constraints={"macs": "50%"}, calibration=[scans(1)])


def test_a_drop_that_every_network_would_meet_is_refused():
    with pytest.raises(BudgetError, match=r"one point of accuracy is 0\.01"):
        fit({"max_drop": 1}, task=task())


def test_a_time_limit_of_nothing_is_refused():
    with pytest.raises(BudgetError, match="minutes"):
        fit({"macs": "50%"}, minutes=0)


def test_an_unknown_option_lists_the_known():
    with pytest.raises(StrategyError, match="ignored_layers"):
        fit({"macs": "50%"}, ignore="head")


def test_an_unknown_recovery_lists_the_known():
    with pytest.raises(StrategyError, match="'finetune'"):
        fit({"macs": "50%"}, recovery="train")


def test_training_without_data_is_refused():
    with pytest.raises(InputError, match="train"):
        fit({"macs": "50%"}, recovery="finetune")


def test_weights_that_are_not_finite_are_refused():
    model = Net()
    with torch.no_grad():
        model.first.weight[0] = float("nan")
    with pytest.raises(InputError, match=r"first\.weight"):
        compress(model, EXAMPLE, constraints={"macs": "50%"}, calibration=[scans()])


def test_a_refused_call_leaves_no_folder(tmp_path):
    with pytest.raises(BudgetError):
        fit({"mac": "50%"}, workdir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_search_that_found_nothing_leaves_its_candidates(tmp_path):
    with pytest.raises(InfeasibleError):
        fit({"flash_kb": 0.5}, workdir=tmp_path)
    data = Report.read(tmp_path / "report.json").data
    assert data.candidates
    assert not any(row.kept for row in data.candidates)


def test_a_drop_that_does_not_hold_on_the_test_data_is_told():
    x = scans(64, seed=3)
    chance = torch.arange(64) % 4  # labels without meaning: nothing can be lost on them
    budget = {"macs": "8%", "max_drop": 0.2}
    report = fit(budget, task=task(val=[(x, chance)]), recovery=None).report
    assert any("not on the test data" in note for note in report.data.notes)
