"""The command line: answers, exit codes, help."""

import json
import sys
import textwrap
from dataclasses import replace

import pytest
from tests.compression.toys import FakeWatch
from typer.testing import CliRunner

import penjing
from penjing.cli import app
from penjing.cli.app import LATER
from penjing.figures import Figures, LatencyFigures
from penjing.report import Report
from penjing.training.processes import Processes

COMMANDS = (
    *("demo", "compress", "groups", "prune", "sparsify"),
    *("quantize", "train", "finetune", "distill", "measure", "export", "compile", "report"),
)
NET = """
from tests.compression.toys import EXAMPLE, Net, scans, task as labelled

def model(): return Net()
def example_inputs(): return EXAMPLE
"""
UNLABELLED = "def calibration(): return [scans()]\n"
LABELLED = "def task(): return labelled()\n"


@pytest.fixture(autouse=True)
def watch(monkeypatch):
    return FakeWatch().install(monkeypatch)


@pytest.fixture
def net(tmp_path):
    path = tmp_path / "net.py"
    path.write_text(textwrap.dedent(NET) + UNLABELLED)
    return str(path)


@pytest.fixture
def labelled(tmp_path):
    path = tmp_path / "labelled.py"
    path.write_text(textwrap.dedent(NET) + LABELLED)
    return str(path)


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


# ------------------------------------------------------------------ the main job


def test_compress_ends_with_the_path_of_the_report(net, tmp_path):
    done = run("compress", net, "--macs", "50%", "--out", tmp_path / "run")
    assert done.exit_code == 0
    assert done.stdout.rstrip().endswith("report.html")


def test_compress_writes_network_and_report(net, tmp_path):
    run("compress", net, "--macs", "50%", "--out", tmp_path / "run")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"model", "model.onnx", "report.json", "report.html"} <= names


def test_finetune_trains_the_several_tasks_of_a_file(tmp_path):
    path = tmp_path / "several.py"
    both = "def task(): return {'a': labelled(), 'b': labelled()}\n"
    path.write_text(textwrap.dedent(NET) + both)
    done = run("finetune", path, "--epochs", "1", "--out", tmp_path / "run", "--json")
    assert "b accuracy" in json.loads(done.stdout)["report"]["metrics_after"]


def test_compress_answers_json_alone_on_the_output(net, tmp_path):
    done = run("compress", net, "--macs", "50%", "--out", tmp_path / "run", "--json")
    assert json.loads(done.stdout)["report"]["kind"] == "compress"


def test_the_report_has_the_command_that_reproduces_it(net, tmp_path):
    run("compress", net, "--macs", "50%", "--out", tmp_path / "run")
    command = Report.read(tmp_path / "run" / "report.json").data.command
    assert command.startswith("penjing compress ")
    assert "--macs 50%" in command


def test_an_infeasible_budget_ends_with_code_1(net, tmp_path):
    done = run("compress", net, "--flash-kb", "0.1", "--out", tmp_path / "run")
    assert done.exit_code == 1
    assert "the nearest is" in done.stderr


def test_an_infeasible_budget_has_its_nearest_point_as_json(net, tmp_path):
    done = run("compress", net, "--flash-kb", "0.1", "--out", tmp_path / "run", "--json")
    assert json.loads(done.stdout)["nearest"]["flash_kb"] > 0.1


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        ((), "'macs': '50%'"),
        (("--macs", "150%"), "at most 100%"),
        (("--macs", "half"), "give a finite number"),
        (("--macs", "50%", "--device", "stm32h743"), "leave device out"),
        (("--macs", "50%", "--importance", "l3"), "Known are"),
        (("--macs", "50%", "--ignore", "nowhere"), "nowhere"),
        (("--macs", "50%", "--minutes", "0"), "above 0"),
    ],
    ids=["no budget", "percent", "text", "device", "strategy", "layer", "minutes"],
)
def test_wrong_input_ends_with_code_2_and_the_fix(net, tmp_path, words, fix):
    done = run("compress", net, *words, "--out", tmp_path / "run")
    assert done.exit_code == 2
    assert fix in done.stderr


def test_wrong_input_shows_no_traceback(net, tmp_path):
    done = run("compress", net, "--macs", "150%", "--out", tmp_path / "run")
    assert "Traceback" not in done.stderr + done.stdout


def test_debug_lets_the_error_through(net, tmp_path):
    done = run("compress", net, "--macs", "150%", "--out", tmp_path / "run", "--debug")
    assert isinstance(done.exception, penjing.errors.BudgetError)


def test_wrong_input_is_json_when_json_is_asked_for(net, tmp_path):
    done = run("compress", net, "--macs", "150%", "--out", tmp_path / "run", "--json")
    assert json.loads(done.stdout)["kind"] == "BudgetError"


def test_a_folder_that_cannot_be_written_ends_with_code_2(net, tmp_path):
    (tmp_path / "taken").write_text("")
    done = run("compress", net, "--macs", "50%", "--out", tmp_path / "taken" / "run")
    assert done.exit_code == 2


# ------------------------------------------------------------------ the other commands


def test_groups_prints_a_table(net):
    assert "second" in run("groups", net).stdout


def test_groups_answers_json(net):
    assert json.loads(run("groups", net, "--json").stdout)["groups"][0]["units"] == 8


def test_a_file_that_is_not_there_ends_with_code_2(tmp_path):
    done = run("groups", tmp_path / "absent.py")
    assert done.exit_code == 2
    assert "absent.py" in done.stderr


def test_prune_writes_network_plan_and_report(net, tmp_path):
    done = run("prune", net, "--pruning-ratio", "0.5", "--out", tmp_path / "half")
    assert done.exit_code == 0
    names = {path.name for path in (tmp_path / "half").iterdir()}
    assert names == {"model", "plan.json", "report.json", "report.html"}


def test_prune_says_what_is_left_where_the_file_has_a_task(labelled, tmp_path):
    done = run("prune", labelled, "--pruning-ratio", "0.5", "--out", tmp_path / "half")
    assert "accuracy on test: original " in done.stdout


def test_prune_repeats_a_plan(net, tmp_path):
    run("prune", net, "--pruning-ratio", "0.5", "--out", tmp_path / "one")
    run("prune", net, "--plan", tmp_path / "one" / "plan.json", "--out", tmp_path / "two")
    one, two = (Report.read(tmp_path / n / "report.json").data.after for n in ("one", "two"))
    assert one.macs == two.macs


def test_a_ratio_in_percent_ends_with_code_2(net, tmp_path):
    done = run("prune", net, "--pruning-ratio", "50", "--out", tmp_path / "half")
    assert done.exit_code == 2
    assert "50 percent is 0.5" in done.stderr


def test_sparsify_writes_a_network_with_zeros(net, tmp_path):
    done = run(
        "sparsify", net, "--sparsity", "0.5", "--keep-dense", "none", "--out", tmp_path / "half"
    )
    left = Report.read(tmp_path / "half" / "report.json").data
    assert (done.exit_code, left.after.nonzero < 0.6 * left.before.nonzero) == (0, True)


def test_a_pattern_that_is_none_ends_with_code_2(net, tmp_path):
    done = run("sparsify", net, "--pattern", "stripes", "--out", tmp_path / "half")
    assert done.exit_code == 2
    assert "no pattern is called 'stripes'" in done.stderr


def test_a_saved_network_can_be_measured(net, tmp_path):
    run("prune", net, "--pruning-ratio", "0.5", "--out", tmp_path / "half")
    done = run("measure", tmp_path / "half", "--json")
    assert json.loads(done.stdout)["macs"] > 0


def test_prune_cuts_what_scope_names_and_nothing_else(net, tmp_path):
    words = ("--nonzero", "30%", "--scope", "inner", "--scope", "weights")
    done = run("prune", net, *words, "--out", tmp_path / "both")
    data = Report.read(tmp_path / "both" / "report.json").data
    assert (done.exit_code, data.choices["scope"]) == (0, "inner, weights")
    assert data.after.nonzero <= 0.3 * data.before.nonzero


def test_prune_judges_every_step_of_an_iteration(labelled, tmp_path):
    words = ("--pruning-ratio", "0.5", "--iterative-steps", "2")
    run("prune", labelled, *words, "--out", tmp_path / "half")
    rows = Report.read(tmp_path / "half" / "report.json").data.recovery
    names = list(dict.fromkeys((row.split, row.step) for row in rows))
    steps = ["1 cut", "1 repaired", "2 cut", "2 repaired"]
    assert names == [(split, step) for split in ("val", "test") for step in steps]


def test_quantize_mixes_bits_under_a_bound(net, tmp_path):
    words = ("--weight-bytes", "15%", "--weight-bits", "2", "--weight-bits", "8", "--equalize")
    done = run("quantize", net, *words, "--out", tmp_path / "mixed")
    choices = Report.read(tmp_path / "mixed" / "report.json").data.choices
    assert (done.exit_code, choices["scheme"]) == (0, "mixed (2, 8 bits)")


def _figures(_network, _example, *, against=None, **_given):
    alone = LatencyFigures("a runtime", 1, 1, 5, 2.0, 1.9, 2.1)
    other = None if against is None else replace(alone, median_ms=3.0)
    timed = replace(alone, original=other)
    return Figures(10, 10, 100, latency_ms=timed.median_ms, latency=timed)


def test_two_measured_networks_are_shown_by_the_same_rounds(net, monkeypatch):
    shown: list[Report] = []
    monkeypatch.setattr("penjing.cli.measure.show_report", shown.append)
    monkeypatch.setattr("penjing.cli.measure.measure_network", _figures)
    run("measure", net, "--against", net)
    (report,) = shown
    assert report.before.latency == report.after.latency.original


def test_finetune_learns_from_the_original(labelled, tmp_path):
    run("prune", labelled, "--pruning-ratio", "0.5", "--out", tmp_path / "half")
    student = tmp_path / "half" / "model"
    words = ("--student", student, "--epochs", "1", "--out", tmp_path / "tuned", "--json")
    done = run("finetune", labelled, *words)
    assert json.loads(done.stdout)["report"]["choices"]["teacher"] == "Net"


def test_train_ends_with_the_zeros_asked_for(labelled, tmp_path):
    words = ("--sparsity", "0.5", "--pattern", "block:2x1", "--method", "rigl", "--epochs", "2")
    done = run("train", labelled, *words, "--keep-dense", "none", "--out", tmp_path / "sparse")
    told = Report.read(tmp_path / "sparse" / "report.json").data.choices["zeros"]
    assert (done.exit_code, told.split()[0]) == (0, "50.00%")


def test_quantize_trains_on_the_grids(labelled, tmp_path):
    out = tmp_path / "run"
    words = ("--scheme", "int4", "--training", "--epochs", 1, "--out", out)
    assert run("quantize", labelled, *words).exit_code == 0
    assert Report.read(out / "report.json").data.choices["steps"] == "learned"


def test_quantize_refuses_what_is_not_done_in_training(labelled):
    done = run("quantize", labelled, "--training", "--max-drop", "1%", "--rounding", "gptq")
    assert done.exit_code == 2
    assert "--rounding, --max-drop with --training" in done.output


def test_quantize_refuses_options_of_training_without_it(labelled):
    done = run("quantize", labelled, "--epochs", "9", "--compile")
    assert done.exit_code == 2
    assert "--epochs, --compile without --training" in done.output


def test_train_needs_a_task(net, tmp_path):
    done = run("train", net, "--sparsity", "0.5", "--out", tmp_path / "sparse")
    assert (done.exit_code, "task" in done.stderr) == (2, True)


def test_of_several_processes_the_first_alone_writes(labelled, tmp_path, monkeypatch):
    monkeypatch.setattr(Processes, "here", lambda: Processes(rank=1, size=2))
    run("finetune", labelled, "--epochs", "1", "--out", tmp_path / "tuned")
    assert not (tmp_path / "tuned" / "model").exists()


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        (("--tracker", "tensorbord"), "known are tensorboard"),
        (("--tracker", "tensorboard"), "penjing[track]"),
        (("--distributed",), "torchrun"),
        (("--sparsity", "90"), "90 percent is 0.9"),
        (("--sparsity", "0.5", "--method", "magic"), "gradual"),
    ],
    ids=["tracker", "not installed", "one process", "sparsity", "method"],
)
def test_a_training_that_cannot_be_ends_with_code_2_and_the_fix(
    labelled, tmp_path, monkeypatch, words, fix
):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    done = run("train", labelled, *words, "--epochs", "1", "--out", tmp_path / "sparse")
    assert (done.exit_code, fix in done.stderr) == (2, True)


def test_distill_teaches_a_student_of_another_file(labelled, tmp_path):
    small = tmp_path / "small.py"
    small.write_text("from tests.compression.toys import Net\ndef model(): return Net()\n")
    words = ("--student", small, "--epochs", "1", "--loss", "relational")
    done = run("distill", labelled, *words, "--out", tmp_path / "taught", "--json")
    assert "Relational" in json.loads(done.stdout)["report"]["choices"]["distillation"]


def test_export_writes_the_file(net, tmp_path):
    assert run("export", net, "--out", tmp_path / "net.onnx").exit_code == 0
    assert (tmp_path / "net.onnx").is_file()


def test_a_format_of_a_later_version_ends_with_code_2(net, tmp_path):
    done = run("export", net, "--out", tmp_path / "net.tflite")
    assert done.exit_code == 2
    assert "LiteRT" in done.stderr


def test_report_makes_the_page(net, tmp_path):
    run("prune", net, "--pruning-ratio", "0.5", "--out", tmp_path / "half")
    done = run("report", tmp_path / "half", "--out", tmp_path / "page.html")
    assert done.exit_code == 0
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")


def test_report_answers_json(net, tmp_path):
    run("prune", net, "--pruning-ratio", "0.5", "--out", tmp_path / "half")
    done = run("report", tmp_path / "half", "--json")
    assert json.loads(done.stdout)["report"]["kind"] == "prune"


# ------------------------------------------------------------------ the house


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_has_an_example(name):
    done = run(name, "--help")
    assert done.exit_code == 0
    assert f"penjing {name}" in done.stdout


@pytest.mark.parametrize("name", sorted(LATER))
def test_a_command_of_a_later_version_says_so(name):
    done = run(name, "net.py")
    assert done.exit_code == 2
    assert "not in this version" in done.stderr


def test_an_unknown_command_ends_with_code_2():
    assert run("shrink").exit_code == 2


def test_the_version_is_told():
    assert run("--version").stdout.strip() == f"penjing {penjing.__version__}"


def test_shell_completion_can_be_installed():
    assert "--install-completion" in run("--help").stdout
