"""Bits beside widths and zeros: what one allocation decides of all, and what it refuses."""

from __future__ import annotations

from functools import cache
from itertools import product

import pytest
import torch
from torch import nn

import penjing as pj
from penjing.compression.verb import compress
from penjing.errors import BudgetError, InfeasibleError, PlanError, StrategyError
from penjing.graph.capture import capture
from penjing.plan import Plan
from penjing.pruning.allocation import dp
from penjing.quantization.packing import Integers, bytes_at_most, read
from penjing.quantization.precision import Precisions
from penjing.task import Calibration
from penjing.verbs.choices import Choices
from penjing.verbs.preparation import Preparation

WIDTHS = {"inner", "bits"}
ALL = {"inner", "weights", "bits"}
X = torch.randn(128, 3, 6, 6, generator=torch.Generator().manual_seed(3))


@cache
def net() -> nn.Module:
    torch.manual_seed(1)
    layers = [nn.Conv2d(3, 12, 3, bias=False), nn.BatchNorm2d(12), nn.ReLU()]
    layers += [nn.Conv2d(12, 40, 3), nn.ReLU(), nn.Flatten()]
    model = nn.Sequential(*layers, nn.Linear(160, 24), nn.ReLU(), nn.Linear(24, 4))
    model(X + 0.3)  # statistics of its own for the norm
    return model.eval()


@cache
def pruned(share: str = "12%", scope: frozenset[str] = frozenset(ALL)) -> pj.Pruned:
    return pj.prune(
        net(), X[:1], constraints={"size_kb": share}, scope=scope, calibration=[X], repair=None
    )


def quantized(result: pj.Pruned) -> pj.Quantized:
    return pj.quantize(
        result.model, X[:1], calibration=[X], weight_bits_dict=result.plan.bits, rounding="gptq"
    )


WHOLE = 4 * sum(p.numel() for p in net().parameters())


@pytest.mark.parametrize(("share", "scope"), [("16%", WIDTHS), ("12%", ALL)])
def test_the_network_in_integers_keeps_within_the_bytes_and_nearly_fills_them(
    share: str, scope: set[str]
) -> None:
    done = quantized(pruned(share, frozenset(scope)))
    budget = float(share[:-1]) / 100 * WHOLE
    assert 0.9 * budget < done.model.network.size_bytes() <= budget


def test_the_layers_have_the_bits_of_the_plan() -> None:
    done = quantized(pruned())
    assert {
        f"{n}.weight": b for n, b in done.model.network.layer_bits.items()
    } == pruned().plan.bits


def test_a_plan_with_bits_survives_a_file_and_makes_the_same_network() -> None:
    plan = Plan.from_json(pruned().plan.to_json())
    again = pj.prune(net(), X[:1], plan=plan, calibration=[X], repair=None)
    assert again.plan == pruned().plan
    pairs = zip(again.model.parameters(), pruned().model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_the_report_says_which_bits_were_chosen() -> None:
    assert any("-bit weights" in note for note in pruned().report.data.notes)


@cache
def preparation() -> Preparation:
    choices = Choices(scope=frozenset(WIDTHS), weight_bits=(4, 8), round_to=4)
    return Preparation.of(net(), X[:1], Calibration.of([X]), choices)


@pytest.mark.parametrize("share", [0.2, 0.12])
def test_no_candidate_within_the_bytes_has_less_error_than_the_solver_s(share: float) -> None:
    ready = preparation()
    cost, limit = ready.costs["size_kb"], share * ready.original["size_kb"]
    groups = (*ready.groups, *ready.removable.beside.groups)
    errors = {**ready.evidence.errors, **ready.beside}
    options = [
        (4, 8) if g.kind == "bits" else range(4, g.units + 1, 4 * (g.units // 12)) for g in groups
    ]

    def lost(kept: dict[str, int]) -> float:
        return sum(float(errors[g.name][g.units - kept[g.name]]) for g in groups)

    every = [
        dict(zip((g.name for g in groups), choice, strict=True)) for choice in product(*options)
    ]
    best = min((c for c in sorted(every, key=lost) if cost(c) <= limit), key=lost)
    demand = ready.demand(budgets={"size_kb": limit})
    found = dp(groups, {}, errors, {"size_kb": cost}, demand)
    assert cost(found) <= limit
    assert lost(found) <= 1.02 * lost(best)


def test_the_error_of_a_layer_is_that_of_its_output() -> None:
    """Against a float64 computation on all samples, for the layer that reads the inputs."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Linear(8, 2)), X[:, 0, 0]
    found = Precisions.of(model, capture(model, x[:1]), (3, 8)).errors(Calibration.of([x]))
    coarse = pj.quantize(
        model, x[:1], calibration=[x], weight_bits_dict={"0": 3}, rounding="gptq"
    ).model.network.program.tensors["0.weight"]
    with torch.no_grad():
        wanted, got = model[0](x).double(), x.double() @ coarse.double().T
    error = float((got - wanted).square().sum() / wanted.square().sum())
    assert float(found["bits of 0.weight"][5]) == pytest.approx(error, rel=0.1)


def test_bit_operations_are_counted_by_hand() -> None:
    ready = preparation()
    kept = {
        g.name: 4 if g.kind == "bits" else g.units
        for g in (*ready.groups, *ready.removable.beside.groups)
    }
    macs = 16 * 12 * 27 + 4 * 40 * 108 + 160 * 24 + 24 * 4
    assert ready.costs["bit_operations"](kept) == 4 * 8 * macs
    assert ready.original["bit_operations"] == 32 * 32 * macs


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("sparsity", [0.0, 0.6, 0.95])
def test_integers_without_their_zeros_come_back_from_a_file(bits: int, sparsity: float) -> None:
    limit = 2 ** (bits - 1) - 1
    q = torch.randint(-limit, limit + 1, (40, 30)).to(torch.int8)
    q[torch.rand(40, 30) < sparsity] = 0
    held = Integers.of(q, bits)
    assert torch.equal(read(held.values, held.places, held.entry, bits, (40, 30)), q)
    assert held.size_bytes <= 40 * 30 * bits / 8


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("elements", [1, 7, 257, 70001])
def test_bytes_counted_at_most_are_no_fewer_than_those_of_the_file(
    bits: int, elements: int
) -> None:
    q = (torch.arange(elements) % 2).to(torch.int8)
    at_most = bytes_at_most(elements, float(q.sum()), bits)
    assert Integers.of(q, bits).size_bytes <= at_most


def test_a_sparse_network_of_few_bits_is_saved_without_its_zeros(tmp_path) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    wide = nn.Sequential(nn.Linear(6, 128), nn.ReLU(), nn.Linear(128, 128), nn.Linear(128, 2))
    with torch.no_grad():
        wide[2].weight[torch.rand(128, 128) < 0.9] = 0
    x = X[:, 0, 0]
    done = pj.quantize(wide, x[:1], calibration=[x], scheme="int4").model
    written = pj.save(done, tmp_path)
    dense = 128 * 128 // 2
    assert done.network.size_bytes() < dense
    assert (written / "model.safetensors").stat().st_size < dense
    assert torch.equal(pj.load(tmp_path)(x), done(x))


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"scope": {"bits"}}, StrategyError, "weight_bytes"),
        ({"scope": {"bits", "depth"}}, StrategyError, "names of layers"),
        ({"scope": WIDTHS, "importance": "l1"}, StrategyError, "weighed by their errors"),
        ({"scope": WIDTHS, "constraints": {"macs": "50%"}}, BudgetError, "counts bits"),
        ({"scope": ALL, "constraints": {"nonzero": "50%"}}, BudgetError, "counts bits"),
        ({"scope": WIDTHS, "weight_bits": (0, 4)}, BudgetError, "1 to 8"),
        ({"scope": WIDTHS, "weight_bits": 4}, BudgetError, "weight_bits is 4"),
        ({"scope": ALL, "weight_bits": (1, 8)}, StrategyError, "cannot be zero"),
        ({"scope": {"inner"}, "weight_bits": (4,)}, BudgetError, "where scope holds 'bits'"),
        ({"scope": WIDTHS, "constraints": {"size_kb": "0.2%"}}, InfeasibleError, "cannot be met"),
    ],
)
def test_what_cannot_be_is_refused(
    options: dict[str, object], error: type[Exception], text: str
) -> None:
    asked: dict[str, object] = {"constraints": {"size_kb": "12%"}, "calibration": [X], **options}
    with pytest.raises(error, match=text):
        pj.prune(net(), X[:1], **asked)  # type: ignore[arg-type]


def test_bits_of_no_weight_are_refused() -> None:
    plan = pruned().plan
    wrong = Plan(plan.drop, plan.units, plan.fingerprint, bits={"9.weight": 4})
    with pytest.raises(PlanError, match=r"9\.weight"):
        pj.prune(net(), X[:1], plan=wrong)
    with pytest.raises(PlanError, match="from 1 to 8"):
        Plan({}, {}, "00", bits={"w": 9})


def test_compress_says_that_it_returns_floats() -> None:
    with pytest.raises(StrategyError, match="networks in floats"):
        compress(net(), X[:1], constraints={"macs": "50%"}, calibration=[X], scope=WIDTHS)
