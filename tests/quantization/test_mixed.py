"""Mixed precision: bits by the solver, within exact budgets."""

from __future__ import annotations

from functools import cache
from itertools import pairwise, product

import pytest
import torch
from torch import nn

import penjing as pj
from penjing.errors import BudgetError, InfeasibleError, StrategyError
from penjing.quantization.formats import packed_bytes

X = torch.randn(64, 12, generator=torch.Generator().manual_seed(3))


@cache
def net() -> nn.Module:
    torch.manual_seed(1)
    sizes = (12, 32, 16, 16, 4)
    layers: list[nn.Module] = []
    for i, o in pairwise(sizes):
        layers += [nn.Linear(i, o), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def quantized(**options: object) -> pj.Quantized:
    return pj.quantize(net(), X[:1], calibration=[X], **options)  # type: ignore[arg-type]


def lost(result: pj.Quantized) -> float:
    with torch.no_grad():
        return float((result.model(X) - net()(X)).square().sum())


def weight_bytes(bits: dict[str, int]) -> int:
    weights = {name: net().get_submodule(name).weight for name in bits}
    return sum(packed_bytes(w.numel(), bits[n]) + 4 * len(w) for n, w in weights.items())


@pytest.mark.parametrize("share", [25, 32, 40])
def test_bytes_of_weights_are_within_the_budget(share: int) -> None:
    done = quantized(constraints={"weight_bytes": f"{share}%"})
    whole = 4 * sum(p.numel() for p in net().parameters() if p.dim() > 1)
    assert weight_bytes(dict(done.model.network.layer_bits)) <= share / 100 * whole


def test_hardly_any_mixture_of_the_same_bytes_is_better() -> None:
    done = quantized(constraints={"weight_bytes": 1000})
    rivals = []
    for choice in product((2, 4, 8), repeat=4):
        bits = dict(zip(done.model.network.layer_bits, choice, strict=True))
        if 900 < weight_bytes(bits) <= 1000:  # with fewer bytes more is lost
            rivals.append(lost(quantized(weight_bits_dict=bits)))
    assert sum(rival < lost(done) for rival in rivals) <= 0.1 * len(rivals)


def test_bit_operations_are_a_budget_too() -> None:
    done = quantized(constraints={"bit_operations": "3%"})
    layers = {name: net().get_submodule(name).weight.numel() for name in ("0", "2", "4", "6")}
    spent = sum(8 * done.model.network.layer_bits[name] * n for name, n in layers.items())
    assert spent <= 0.03 * 32 * 32 * sum(layers.values())


def test_the_report_says_who_got_what() -> None:
    notes = quantized(constraints={"weight_bytes": "25%"}).report.data.notes
    assert "-bit weights" in notes[0]
    assert "was allowed" in notes[1]


def test_bits_of_single_layers_are_those_asked_for() -> None:
    done = quantized(weight_bits_dict={nn.Linear: 4, "6": 8})
    assert done.model.network.layer_bits == {"0": 4, "2": 4, "4": 4, "6": 8}


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(12, 12), nn.Linear(12, 12)
        self.second.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x).relu())


@pytest.mark.parametrize("name", ["first", "second"])
def test_a_shared_weight_has_the_bits_asked_for_under_either_name(name: str) -> None:
    done = pj.quantize(Tied(), X[:1], calibration=[X], weight_bits_dict={name: 4})
    assert list(done.model.network.layer_bits.values()) == [4]


def test_bits_that_were_chosen_are_trained() -> None:
    bits = quantized(constraints={"weight_bytes": "30%"}).model.network.layer_bits
    start = pj.prepare(net(), X[:1], calibration=[X], weight_bits_dict=bits).model
    assert pj.convert(start).model.network.layer_bits == bits


def test_a_mixture_survives_a_file(tmp_path) -> None:  # type: ignore[no-untyped-def]
    done = quantized(constraints={"weight_bytes": "30%"}).model
    again = pj.load(pj.save(done, tmp_path))
    assert torch.equal(again(X), done(X))
    assert (again.network.notes, again.network.scheme) == (done.network.notes, done.network.scheme)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"constraints": {"weight_bytes": 1}}, InfeasibleError, "cannot be met"),
        ({"constraints": {"bytes": "5%"}}, BudgetError, "weight_bytes"),
        ({"constraints": {"weight_bytes": "5%"}, "weight_bits": (8,)}, BudgetError, "two or more"),
        ({"constraints": {"weight_bytes": "5%"}, "max_drop": 0.1}, BudgetError, "one of them"),
        ({"weight_bits_dict": {"0": 9}}, StrategyError, "1 to 8"),
        ({"weight_bits_dict": {"nowhere": 4}}, StrategyError, "nowhere"),
        ({"weight_bits_dict": {nn.ReLU: 4}}, StrategyError, "no layer has a weight"),
        ({"weight_bits_dict": {"0": 4.5}}, StrategyError, "1 to 8"),
        ({"weight_bits": (2, 4)}, BudgetError, "give constraints"),
        ({"weight_bits": 4}, BudgetError, "weight_bits is 4"),
    ],
)
def test_what_cannot_be_is_refused(
    options: dict[str, object], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        quantized(**options)
