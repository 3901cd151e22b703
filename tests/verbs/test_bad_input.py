"""What people bring that cannot be cut as it is: it is cut all the same, or refused with a fix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typer.testing import CliRunner

import penjing as pj
from penjing.cli import app
from penjing.errors import CaptureError, InputError, StrategyError

IMAGE = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))
ROWS = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))


class BakedBatch(nn.Module):
    """Its forward writes the batch of the example into a view."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.read = nn.Linear(6, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.read(F.relu(self.inner(x)).view(4, 8))


class BakedWidth(nn.Module):
    """Its forward writes widths and sizes into views."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.read = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8 * 36, 5)

    def forward(self, x: Tensor) -> Tensor:
        maps = F.relu(self.inner(x)).view(x.shape[0], 8, 36)
        return self.read(maps.reshape(x.shape[0], 8 * 36))


def half(model: nn.Module, example: Tensor) -> pj.Pruned:
    return pj.prune(model.eval(), example, pruning_ratio=0.5)


def test_a_graph_form_of_one_batch_names_it_and_how_to_leave_it_open() -> None:
    form = half(BakedBatch(), ROWS).model
    with pytest.raises(InputError, match=r"x\[3, 6\].*x\[4, 6\].*leaves the batch open"):
        form(ROWS[:3])


def test_the_report_says_that_the_batch_is_held() -> None:
    notes = half(BakedBatch(), ROWS).report.data.notes
    assert any("it takes x[4, 6]" in note for note in notes)


def test_a_graph_form_with_a_free_batch_takes_another() -> None:
    assert half(BakedWidth(), IMAGE).model(IMAGE[:3]).shape == (3, 5)


def test_a_graph_form_of_one_size_names_both() -> None:
    form = half(BakedWidth(), IMAGE).model
    with pytest.raises(InputError, match=r"x\[4, 3, 8, 8\].*x\[any, 3, 6, 6\]"):
        form(torch.zeros(4, 3, 8, 8))


def test_a_convolutional_network_of_its_own_class_takes_other_sizes() -> None:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    net = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    made = half(net, IMAGE).model
    assert made(torch.zeros(2, 3, 11, 9)).shape == (2, 3)


def test_a_flattened_map_of_another_size_gives_the_error_of_the_original() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 3))
    made = half(net, IMAGE).model
    with pytest.raises(RuntimeError, match=r"2x100 and 64x3"):
        made(torch.zeros(2, 3, 7, 7))


def test_a_network_in_training_mode_is_cut_in_eval_and_given_back_in_training() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout(0.5), nn.Conv2d(8, 4, 3))
    means = net[1].running_mean.clone()
    made = pj.prune(net.train(), IMAGE, pruning_ratio=0.5).model
    assert (made.training, net.training) == (True, True)
    torch.testing.assert_close(net[1].running_mean, means)


class Restless(nn.Module):
    """Dropout that never rests."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.read = nn.Linear(6, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.read(F.dropout(self.inner(x), 0.5, training=True))


def test_dropout_that_never_rests_is_named_where_nothing_can_be_cut() -> None:
    (note,) = half(Restless(), ROWS).report.data.notes
    assert "dropout draws random numbers, in eval mode too" in note


@pytest.mark.parametrize(("samples", "short"), [(11, True), (12, False)])
def test_samples_that_do_not_fill_a_gram_matrix_are_counted(samples: int, short: bool) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 4))
    data = [torch.randn(samples, 6)]
    thin = {"sparsity": 0.5, "keep_dense": ()}
    for verb, wanted in ((pj.prune, {"pruning_ratio": 0.5}), (pj.sparsify, thin)):
        notes = verb(net, ROWS[:1], calibration=data, **wanted).report.data.notes
        assert any("the Gram matrices of 2" in note for note in notes) == short
        assert any("give at least 12" in note for note in notes) == short


def test_a_plan_that_is_carried_out_without_repair_fills_no_gram_matrix() -> None:
    net = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 4))
    plan = pj.prune(net, ROWS[:1], pruning_ratio=0.5).plan
    done = pj.prune(net, ROWS[:1], plan=plan, calibration=[torch.ones(3, 6)], repair=None)
    assert not done.report.data.notes


def test_statistics_of_the_batch_are_cut_with_it() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(8, track_running_stats=False)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), norm, nn.ReLU(), nn.Conv2d(8, 4, 3))
    assert half(net, IMAGE).model[0].out_channels == 4


class Cache:
    """What torch does not know."""


class Cached(nn.Module):
    """Gives a cache beside its outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.read = nn.Linear(6, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor, use_cache: bool = True) -> object:
        out = self.read(self.inner(x))
        return (out, Cache()) if use_cache else out


def test_a_cache_in_the_outputs_is_refused_with_how_to_switch_it_off() -> None:
    with pytest.raises(CaptureError, match=r"returns a Cache.*use_cache=False"):
        half(Cached(), ROWS)


def test_without_its_cache_the_network_is_cut() -> None:
    made = pj.prune(Cached().eval(), {"x": ROWS, "use_cache": False}, pruning_ratio=0.5).model
    assert made.inner.out_features == 4


NET = """
from tests.verbs.test_bad_input import {name}, {example}
def model(): return {name}()
def example_inputs(): return {example}
"""


def told(tmp_path: Path, name: str, example: str, *words: str) -> tuple[int, str]:
    path = tmp_path / "net.py"
    path.write_text(NET.format(name=name, example=example))
    done = CliRunner().invoke(app, ["prune", str(path), "--out", str(tmp_path / "out"), *words])
    return done.exit_code, " ".join(done.output.split())


def test_the_command_line_says_how_a_cache_is_switched_off(tmp_path: Path) -> None:
    code, output = told(tmp_path, "Cached", "ROWS", "--pruning-ratio", "0.5")
    assert (code, "use_cache=False" in output) == (2, True)


def test_the_command_line_names_the_nearest_share(tmp_path: Path) -> None:
    words = ("--pruning-ratio", "0.6", "--round-to", "4")
    code, output = told(tmp_path, "BakedWidth", "IMAGE", *words)
    assert (code, "the nearest share was taken for" in output) == (0, True)


@pytest.fixture(scope="module")
def exported() -> torch.export.ExportedProgram:
    return torch.export.export(nn.Sequential(nn.Linear(6, 4), nn.ReLU()).eval(), (ROWS,))


@pytest.mark.parametrize("form", ["program", "module"])
def test_an_exported_program_is_refused_with_what_to_give(
    exported: torch.export.ExportedProgram, form: str
) -> None:
    given: Any = exported if form == "program" else exported.module()
    with pytest.raises(InputError, match="unflatten"):
        pj.compile(given, ROWS)


def test_an_exported_program_that_is_unflattened_compiles(
    exported: torch.export.ExportedProgram,
) -> None:
    assert pj.compile(torch.export.unflatten(exported), ROWS)(ROWS).shape == (4, 4)


@pytest.mark.parametrize(
    ("importance", "told"),
    [("snip", r"of \(inputs, labels\)"), ("taylor", r"unlabelled inputs are enough")],
)
def test_missing_data_is_asked_for_with_labels_where_they_are_read(
    importance: str, told: str
) -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    with pytest.raises(StrategyError, match=told):
        pj.prune(net, torch.ones(1, 4), pruning_ratio=0.5, importance=importance)


def test_a_rounding_by_gram_matrices_says_how_many_samples_it_wants() -> None:
    net = nn.Sequential(nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 4))
    few = [torch.randn(8, 32)]
    done = pj.quantize(net, torch.ones(1, 32), calibration=few, rounding="gptq")
    assert "give at least 32" in " ".join(done.report.data.notes)
