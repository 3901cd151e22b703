"""Every step after every other: what one has gained, the next one keeps; or it says why not."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import permutations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import penjing as pj
from penjing.errors import InputError, PenjingError
from penjing.graph.network import Network
from penjing.quantization.module import QuantizedModule

X = torch.randn(96, 3, 8, 8, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0].mean((1, 2)) > 0).long() + 2 * (X[:, 1].mean((1, 2)) > 0).long()
WIDTH = 16


class Net(nn.Module):
    """Two blocks of one stream, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv2d(3, WIDTH, 3, padding=1, bias=False))
        self.norm = nn.BatchNorm2d(WIDTH)
        self.inner = nn.Conv2d(WIDTH, 2 * WIDTH, 3, padding=1)
        self.outer = nn.Conv2d(2 * WIDTH, WIDTH, 1)
        self.head = nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(x + self.outer(F.relu(self.inner(x))))
        return self.head(x.mean((2, 3)))


def task() -> pj.Task:
    return pj.Task(train=list(zip(X.split(32), Y.split(32), strict=True)), loss=F.cross_entropy)


@cache
def dense() -> nn.Module:
    return pj.finetune(Net(), task(), epochs=6, lr=0.01, progress=False).model


def prune(model: nn.Module) -> nn.Module:
    return pj.prune(model, X[:1], pruning_ratio=0.5, calibration=[X], allocation="uniform").model


def sparsify(model: nn.Module) -> nn.Module:
    return pj.sparsify(model, X[:1], sparsity=0.6, calibration=[X], keep_dense=()).model


def quantize(model: nn.Module) -> nn.Module:
    return pj.quantize(model, X[:1], calibration=[X]).model


def prepare(model: nn.Module) -> nn.Module:
    return pj.prepare(model, X[:1], calibration=[X], scheme="int4").model


def distill(model: nn.Module) -> nn.Module:
    return pj.distill(model, dense(), task(), epochs=1, progress=False).model


def finetune(model: nn.Module) -> nn.Module:
    return pj.finetune(model, task(), epochs=1, progress=False).model


STEPS: dict[str, Callable[[nn.Module], nn.Module]] = {
    step.__name__: step for step in (prune, sparsify, quantize, prepare, distill, finetune)
}
FINAL = {"quantize", "prepare"}
"""What makes integers, or prepares for them: nothing is cut or put on grids behind it."""
TRAINING = {"distill", "finetune"}


def possible(first: str, second: str) -> bool:
    """Whether the second step means anything after the first."""
    if first == "quantize":
        return False
    return first != "prepare" or second in TRAINING


PAIRS = list(permutations(STEPS, 2))
MEANT = [pair for pair in PAIRS if possible(*pair)]


@cache
def after(first: str) -> nn.Module:
    return STEPS[first](dense())


@cache
def both(first: str, second: str) -> nn.Module:
    return STEPS[second](after(first))


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """Weights by the end of their names, whatever holds them."""
    if isinstance(model, QuantizedModule):
        return dict(model.network.program.tensors)
    named = dict(model.named_parameters())
    return {name.removeprefix("network."): value.detach() for name, value in named.items()}


def width(model: nn.Module) -> int:
    return len(tensors(model)["inner.weight"])


def zeros(model: nn.Module) -> dict[str, Tensor]:
    return {n: t == 0 for n, t in tensors(model).items() if t.dim() > 1}


@pytest.mark.parametrize(("first", "second"), MEANT)
def test_the_answers_of_two_steps_are_finite(first: str, second: str) -> None:
    model = both(first, second)
    with torch.no_grad():
        outputs = model(X)
    assert outputs.shape == (96, 4)
    assert bool(outputs.isfinite().all())


@pytest.mark.parametrize(("first", "second"), [p for p in MEANT if "prune" in p])
def test_units_that_were_cut_stay_cut(first: str, second: str) -> None:
    assert width(both(first, second)) == WIDTH


@pytest.mark.parametrize(
    ("first", "second"), [p for p in MEANT if p[0] == "sparsify" and p[1] != "prune"]
)
def test_zeros_stay_zeros(first: str, second: str) -> None:
    now = zeros(both(first, second))
    assert all(bool(now[name][was].all()) for name, was in zeros(after(first)).items())


def share(model: nn.Module) -> float:
    weights = [t for t in tensors(model).values() if t.dim() > 1]
    return sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)


REPAIRS = ("auto", "tune", "fold", "recalibrate", None)


@cache
def cut_of_sparse(repair: str | None) -> pj.Pruned:
    """A sparse network, the first half of each group's units gone, under one repair."""
    sparse = after("sparsify")
    widths = {g.name: g.units for g in pj.find_groups(sparse, X[:1])}
    plan = Network.of(sparse, X[:1]).plan({n: tuple(range(u // 2)) for n, u in widths.items()})
    return pj.prune(sparse, X[:1], plan=plan, calibration=[X], repair=repair)


@pytest.mark.parametrize("repair", REPAIRS)
def test_zeros_stay_zeros_through_a_cut(repair: str | None) -> None:
    bare, repaired = zeros(cut_of_sparse(None).model), zeros(cut_of_sparse(repair).model)
    assert all(bool(repaired[name][was].all()) for name, was in bare.items())


@pytest.mark.parametrize("repair", ["auto", "fold"])
def test_a_report_tells_of_zeros_that_a_repair_kept(repair: str | None) -> None:
    assert any("sparse before" in note for note in cut_of_sparse(repair).report.data.notes)


def test_a_repair_on_the_weights_that_are_not_zero_brings_a_cut_nearer() -> None:
    with torch.no_grad():
        wanted = after("sparsify")(X)
        bare, repaired = (cut_of_sparse(how).model(X) for how in (None, "auto"))
    assert (repaired - wanted).norm() < 0.5 * (bare - wanted).norm()


def test_a_cut_network_is_made_sparse() -> None:
    assert share(both("prune", "sparsify")) > 0.55


@pytest.mark.parametrize(("first", "second"), [p for p in PAIRS if not possible(*p)])
def test_what_means_nothing_says_so(first: str, second: str) -> None:
    with pytest.raises(PenjingError, match=r"integers|quantized already|pj\.convert|prepared"):
        STEPS[second](after(first))


@pytest.mark.parametrize("verb", sorted(TRAINING))
def test_integers_are_not_trained(verb: str) -> None:
    with pytest.raises(InputError, match=r"in integers"):
        STEPS[verb](after("quantize"))


def test_integers_teach() -> None:
    taught = pj.distill(Net(), after("quantize"), task(), epochs=1, progress=False)
    assert taught.report.data.choices["teacher"] == "QuantizedModule"


def test_all_of_them_in_a_row_keep_width_and_zeros() -> None:
    sparse = sparsify(prune(dense()))
    done = pj.convert(finetune(prepare(distill(sparse)))).model
    assert width(done) == WIDTH
    now = zeros(done)
    assert all(bool(now[name][was].all()) for name, was in zeros(sparse).items())
