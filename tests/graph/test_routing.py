"""Experts: routing by topk and friends, against networks that leave experts out of the choice."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from tests.graph.mixtures import CHOSEN, EXPERTS, INNER, WIDTH, LookedUp, Mixture
from torch import Tensor, nn

import penjing as pj
from penjing.errors import PlanError
from penjing.graph.network import Network
from penjing.pruning.verify import prove

EXACT = 1e-12  # relative, float64: sums of a few products in another order


class Scattered(Mixture):
    """All experts run; those that were not chosen have no share."""

    def mixed(self, x: Tensor, scores: Tensor) -> Tensor:
        shares, chosen = torch.topk(scores, CHOSEN, dim=-1)
        shares = torch.zeros_like(scores).scatter(-1, chosen, shares.softmax(-1))
        gate, up = torch.einsum("eoi,bi->beo", self.up, x).chunk(2, -1)
        made = torch.einsum("eio,beo->bei", self.down, F.silu(gate) * up)
        return torch.einsum("be,bei->bi", shares, made)


class OneHot(Mixture):
    """The choice as rows of zeros and ones, its score looked up again."""

    def mixed(self, x: Tensor, scores: Tensor) -> Tensor:
        chosen = scores.sigmoid().argmax(-1)
        share = scores.sigmoid().gather(-1, chosen.unsqueeze(-1))
        rows = F.one_hot(chosen, EXPERTS).to(x.dtype)
        gate, up = torch.einsum("eoi,bi,be->bo", self.up, x, rows).chunk(2, -1)
        return share * torch.einsum("eio,bo,be->bi", self.down, F.silu(gate) * up, rows)


class Switched(Mixture):
    """The best expert alone, by `max`, its tensors picked by `index_select`."""

    def mixed(self, x: Tensor, scores: Tensor) -> Tensor:
        share, chosen = scores.softmax(-1).max(-1)
        gate, up = torch.bmm(self.up.index_select(0, chosen), x.unsqueeze(-1)).chunk(2, 1)
        made = torch.bmm(self.down.index_select(0, chosen), F.silu(gate) * up)
        return share.unsqueeze(-1) * made.squeeze(-1)


CLASSES = [LookedUp, Scattered, OneHot, Switched]


def made(kind: type[Mixture], seed: int = 0) -> tuple[Mixture, Tensor]:
    torch.manual_seed(seed)
    return kind().double().eval(), torch.randn(7, 3, dtype=torch.float64)


def group_of(network: Network, kind: str) -> str:
    return next(g.name for g in network.groups if g.kind == kind)


def without(net: Mixture, gone: tuple[int, ...]) -> Mixture:
    """The original with these experts left out of the choice, and nothing else changed."""
    twin = copy.deepcopy(net)
    twin.allowed = torch.tensor([e not in gone for e in range(EXPERTS)])
    return twin


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("gone", [(1,), (0, 3)], ids=["one", "two"])
def test_experts_that_are_cut_are_those_that_are_never_chosen(kind, gone):
    net, x = made(kind)
    network = Network.of(net, x)
    cut = network.cut(network.plan({group_of(network, "experts"): gone}))
    fresh = torch.randn(11, 3, dtype=torch.float64)

    (got,) = cut.program.run([fresh])

    torch.testing.assert_close(got, without(net, gone)(fresh), rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize("kind", CLASSES)
def test_a_cut_of_experts_is_proved_node_by_node(kind):
    net, x = made(kind)
    network = Network.of(net, x)

    evidence = prove(network.cut(network.plan({group_of(network, "experts"): (0, 2)})))

    assert evidence.error < EXACT


@pytest.mark.parametrize("kind", CLASSES)
def test_all_of_a_mixture_is_within_reach_but_its_outputs(kind):
    net, x = made(kind)

    found = sorted((g.kind, g.units) for g in pj.find_groups(net, x))

    assert found == [("experts", EXPERTS), ("neurons", INNER), ("neurons", WIDTH)]


@pytest.mark.parametrize("kind", CLASSES)
def test_the_inner_width_of_experts_is_cut_like_the_masked_original(kind):
    net, x = made(kind)
    network = Network.of(net, x)
    name = next(g.name for g in network.groups if g.units == INNER)
    twin = copy.deepcopy(net)
    with torch.no_grad():
        twin.up[:, [1, 1 + INNER]] = 0
        twin.down[:, :, 1] = 0

    (got,) = network.cut(network.plan({name: (1,)})).program.run([x])

    torch.testing.assert_close(got, twin(x), rtol=EXACT, atol=EXACT)


def test_as_many_experts_stay_as_are_chosen():
    net, x = made(LookedUp)
    network = Network.of(net, x)
    group = network.groups[group_of(network, "experts")]

    assert (group.least, group.least_why.split(" mixtures.py")[0]) == (2, "topk chooses 2")


class _Beside(nn.Module):
    """A choice among units and constants beside them."""

    def __init__(self, constants: int, chosen: int) -> None:
        super().__init__()
        self.gate, self.chosen = nn.Linear(3, 8), chosen
        self.register_buffer("others", torch.zeros(1, constants))

    def forward(self, x: Tensor) -> Tensor:
        scores = torch.cat([self.gate(x), self.others.expand(len(x), -1)], 1)
        return torch.topk(scores, self.chosen, 1)[0]


@pytest.mark.parametrize(("constants", "chosen", "least"), [(10, 12, 2), (3, 2, 1), (2, 5, 3)])
def test_only_what_is_missing_beside_constants_is_asked_of_the_units(constants, chosen, least):
    network = Network.of(_Beside(constants, chosen).eval(), torch.randn(2, 3))

    assert [g.least for g in network.groups] == [least]


def test_a_plan_that_leaves_too_few_experts_is_refused():
    net, x = made(LookedUp)
    network = Network.of(net, x)
    plan = network.plan({group_of(network, "experts"): (0, 1, 3)})

    with pytest.raises(PlanError, match=r"keeps 1, but topk chooses 2 .* needs 2; drop 2 at most"):
        network.cut(plan)


@pytest.mark.parametrize("importance", ["l2", "taylor", "obs"])
def test_experts_are_judged_by_every_kind_of_importance(importance):
    net, x = made(LookedUp)
    batches = [(torch.randn(32, 3).double(), torch.randint(0, 2, (32,))) for _ in range(2)]

    pruned = pj.prune(
        net, x, pruning_ratio=0.5, calibration=batches, importance=importance,
        allocation="uniform", scope={"experts"}, repair=None,
    )  # fmt: skip

    assert {name: len(units) for name, units in pruned.plan.drop.items()} == {"gate": 2}


class _Filled(nn.Module):
    """Rows of one layer take the places that a mask picks among those of another."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.image = nn.Linear(3, WIDTH), nn.Linear(2, WIDTH)
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, words: Tensor, image: Tensor, mask: Tensor) -> Tensor:
        x = self.words(words)
        picked = mask.unsqueeze(-1).expand_as(x).to(torch.bool)
        return self.head(torch.relu(x.masked_scatter(picked, self.image(image))))


def test_rows_that_fill_places_lose_the_columns_of_those_they_fill():
    torch.manual_seed(0)
    net = _Filled().double().eval()
    mask = torch.tensor([[False, True, True, False, True]])
    inputs = (torch.randn(1, 5, 3).double(), torch.randn(3, 2).double(), mask)
    network = Network.of(net, inputs)
    twin = copy.deepcopy(net)
    with torch.no_grad():
        for part in (twin.words, twin.image):
            part.weight[[1, 4]], part.bias[[1, 4]] = 0, 0

    (got,) = network.cut(network.plan({network.groups.groups[0].name: (1, 4)})).program.run(inputs)

    torch.testing.assert_close(got, twin(*inputs), rtol=EXACT, atol=EXACT)


class _Shaped(nn.Module):
    """A mask in the shape of a layer's output, of which one position is read."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.head = nn.Linear(3, WIDTH), nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        return self.head(torch.relu(x)) + torch.zeros_like(x, dtype=torch.int32)[..., :1]


def test_integers_in_the_shape_of_units_are_moved_like_floats():
    (group,) = pj.find_groups(_Shaped(), torch.randn(4, 3)).groups

    assert (group.name, group.units) == ("enter", WIDTH - 1)


def _mixtral(way: str | None) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    options = {} if way is None else {"experts_implementation": way}
    config = transformers.MixtralConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
        intermediate_size=8, vocab_size=20, max_position_embeddings=8, num_local_experts=4,
        num_experts_per_tok=2, use_cache=False, **options,
    )  # fmt: skip
    torch.manual_seed(0)
    return transformers.MixtralForCausalLM(config).eval()


@pytest.mark.parametrize("way", [None, "eager"], ids=["default", "eager"])
def test_experts_of_the_hub_keep_their_class_and_the_way_they_run(way):
    model, words = _mixtral(way), torch.randint(0, 20, (2, 6))
    before = model.config._experts_implementation

    pruned = pj.prune(model, {"input_ids": words}, pruning_ratio=0.5, scope={"experts"})

    experts = pruned.model.model.layers[0].mlp.experts
    now = (type(pruned.model), experts.num_experts, pruned.model.config._experts_implementation)
    assert now == (type(model), 2, before)
    assert model.config._experts_implementation == before


def test_a_config_of_the_hub_says_how_many_experts_are_left(tmp_path):
    model, words = _mixtral(None), torch.randint(0, 20, (2, 6))
    pruned = pj.prune(model, {"input_ids": words}, pruning_ratio=0.5, scope={"experts"}).model

    pruned.save_pretrained(tmp_path)

    again = type(model).from_pretrained(tmp_path).eval()
    torch.testing.assert_close(again(words).logits, pruned(words).logits)


def test_experts_whose_rows_are_no_whole_sixteen_bytes_run_as_batched_products():
    model, words = _mixtral(None), torch.randint(0, 20, (2, 6))

    pruned = pj.prune(model, {"input_ids": words}, pruning_ratio=0.2, scope={"embedding"})

    assert pruned.model.config._experts_implementation == "batched_mm"
    assert any("batched_mm" in note for note in pruned.report.data.notes)
