"""Two processes train as one that has a batch as large as both of theirs."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.training import together
from torch.utils.data import DataLoader, DistributedSampler

from penjing.errors import InputError
from penjing.task import Task
from penjing.task.sharing import share
from penjing.training import Fit, fit
from penjing.training.processes import Processes

ROOT = Path(__file__).resolve().parents[2]
SUMS = 1e-6  # sums of float32 in another order, after nine steps


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """(scenario, rank) -> what the process wrote."""
    if not torch.distributed.is_available():
        pytest.skip("this torch has no torch.distributed")
    folder = tmp_path_factory.mktemp("together")
    script = [sys.executable, str(ROOT / "tests" / "training" / "together.py"), str(folder)]
    places = {"PYTHONPATH": f"{ROOT / 'src'}", "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(script, env=places, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return {
        (path.stem[:-2], int(path.stem[-1])): torch.load(path, weights_only=True)
        for path in folder.glob("*-?.pt")
    }


def close(first, second, tolerance=SUMS):
    return all(
        torch.allclose(w, second["weights"][n], rtol=0, atol=tolerance)
        for n, w in first["weights"].items()
    )


def same(first, second):
    return all(torch.equal(w, second["weights"][n]) for n, w in first["weights"].items())


SCENARIOS = (
    *("plain", "accumulated", "whole", "resumed"),
    *("stopped", "spoiled", "sparse", "patient", "masked"),
)


@pytest.mark.parametrize("name", SCENARIOS)
def test_both_processes_end_with_the_same_network(results, name):
    assert same(results[name, 0], results[name, 1])


@pytest.mark.parametrize("name", SCENARIOS)
def test_both_processes_tell_the_same_figures(results, name):
    assert results[name, 0]["figures"] == results[name, 1]["figures"]


@pytest.mark.parametrize("name", ["plain", "accumulated"])
def test_two_processes_train_as_one_with_the_doubled_batch(results, name):
    alone = together.trained(1) if name == "plain" else together.accumulated(1)
    assert close(results[name, 0], alone)


def test_metrics_are_those_of_one_process_over_all_samples(results):
    alone = together.trained(1)
    names = ("accuracy", "positives", "share")
    theirs = [[epoch[name] for name in names] for epoch in results["plain", 0]["figures"]]
    assert theirs == [[epoch[name] for name in names] for epoch in alone["figures"]]


@pytest.mark.parametrize("name", ["loss", "train"])
def test_losses_are_those_of_one_process_over_all_samples(results, name):
    alone = [epoch[name] for epoch in together.trained(1)["figures"]]
    assert [epoch[name] for epoch in results["plain", 0]["figures"]] == pytest.approx(alone, 1e-5)


def test_a_resumed_run_ends_as_if_nothing_had_happened(results):
    assert same(results["whole", 0], results["resumed", 0])


def test_what_one_process_ends_ends_for_both(results):
    assert [results["stopped", rank]["steps"] for rank in (0, 1)] == [2, 2]


def test_a_loss_that_is_not_finite_in_one_process_ends_both_at_the_same_step(results):
    assert {results["spoiled", rank]["stopped"].split(":")[0] for rank in (0, 1)} == {
        "the loss became nan at epoch 2, batch 2 (step 5)"
    }


def test_patience_ends_both_after_the_same_epoch(results):
    assert [results["patient", rank]["epochs"] for rank in (0, 1)] == [1, 1]


def test_constants_stay_as_they_are_to_the_bit(results):
    mask = torch.tensor([0.1, -torch.inf])
    assert torch.equal(results["masked", 0]["weights"]["mask"], mask)


def test_zeros_are_in_the_same_places(results):
    zeros = int((results["sparse", 0]["weights"]["0.weight"] == 0).sum())
    zeros += int((results["sparse", 0]["weights"]["3.weight"] == 0).sum())
    assert zeros == round(0.75 * 128)


def test_a_loader_loads_only_the_batches_of_its_process():
    loaded = []

    class Noted(torch.utils.data.Dataset):
        def __len__(self):
            return 10

        def __getitem__(self, index):
            loaded.append(index)
            return index

    items = list(share(DataLoader(Noted(), 2), "train", Processes(rank=1, size=2)))
    assert (loaded, items[-1]) == ([2, 3, 6, 7], None)


def test_a_loader_with_batches_of_its_own_keeps_them():
    class Doubled(DataLoader):
        def __iter__(self):
            return (2 * batch for batch in super().__iter__())

    (batch,) = share(Doubled([1, 2], 1), "train", Processes(rank=1, size=2))
    assert batch == 4


def test_any_iterable_is_shared_out_in_order():
    assert list(share(list("abcde"), "train", Processes(rank=0, size=2))) == ["a", "c", "e"]


def test_a_loader_that_was_shared_out_already_is_refused():
    data = list(range(8))
    loader = DataLoader(data, 2, sampler=DistributedSampler(data, num_replicas=2, rank=0))
    with pytest.raises(InputError, match="shared out twice"):
        list(Task(train=loader).shared("train", Processes(rank=0, size=2)))


def test_one_process_without_torchrun_is_told_how_to_start_several(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(InputError, match="torchrun --nproc-per-node 2"):
        fit(together.network(), together.task(), Fit(distributed=True, progress=False))
