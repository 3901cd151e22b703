"""Random networks from a vocabulary of steps, and what must hold for every plan on them.

A network is a list of step names: steps on maps (N, C, H, W), then steps on tokens (N, T, C), then
a linear layer over the mean. All draw their sizes from one seed, so that names and a number make a
failure again.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from penjing.errors import PenjingError, VerificationError
from penjing.graph.form import graph_form
from penjing.graph.network import Cut, Network
from penjing.plan import Plan
from penjing.pruning.result import make
from penjing.pruning.verify import Mismatch
from penjing.testing._steps import ON_MAPS, ON_TOKENS, SIZE, AsTokens, even, plain_conv
from penjing.testing.tiny import randomise

EXPORTED_AGAIN = 10
"""Of so many seeds one has its cut network exported anew, which takes most of the time."""

EQUAL = 1e-8  # relative, float64: what rounding explains, times ten for the longer sums


class RandomNetwork(nn.Module):
    """A stem, steps on maps, steps on tokens, a head; float64, eval mode, nothing at 0 or 1.

    Args:
        maps: Keys of `ON_MAPS`.
        tokens: Keys of `ON_TOKENS`.
        seed: Of sizes and weights.

    Example:
        >>> RandomNetwork(["conv", "relu"], ["attention"])(fresh_input()).shape
        torch.Size([3, 3])
    """

    def __init__(self, maps: Sequence[str], tokens: Sequence[str] = (), seed: int = 0) -> None:
        super().__init__()
        pick = random.Random(seed)
        channels = even(pick)
        layers: list[nn.Module] = [plain_conv(3, channels)]
        for name in maps:
            layer, channels = ON_MAPS[name](channels, pick)
            layers.append(layer)
        layers.append(AsTokens())
        for name in tokens:
            layer, channels = ON_TOKENS[name](channels, pick)
            layers.append(layer)
        self.body, self.head = nn.Sequential(*layers), nn.Linear(channels, 3)
        randomise(self, seed)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        """Three numbers for each image."""
        head: Tensor = self.head(self.body(x).mean(1))
        return head


def draw_steps(seed: int) -> tuple[list[str], list[str]]:
    """Names of up to five steps on maps and up to four on tokens."""
    pick = random.Random(seed)
    maps = pick.choices(sorted(ON_MAPS), k=pick.randint(0, 5))
    return maps, pick.choices(sorted(ON_TOKENS), k=pick.randint(0 if maps else 1, 4))


def fresh_input(batch: int = 3, seed: int = 1) -> Tensor:
    """Images for a random network, float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 3, SIZE, SIZE, generator=generator, dtype=torch.float64)


def draw_drop(network: Network, seed: int) -> dict[str, list[int]]:
    """Some units of about two thirds of the groups, never all of one."""
    pick = random.Random(seed)
    return {
        group.name: sorted(pick.sample(range(group.units), pick.randint(1, group.units - 1)))
        for group in network.groups
        if pick.random() < 2 / 3
    }


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one network.

    Args:
        failures: Invariants that did not hold, in words.
        groups: Groups found.
        locks: Locked dimensions of weights.
        reachable: Share of the parameters that some group cuts.
        silent: The plan moved no output, so that nothing could be proved.
    """

    failures: tuple[str, ...]
    groups: int
    locks: int
    reachable: float
    silent: bool = False


def check(maps: Sequence[str], tokens: Sequence[str] = (), seed: int = 0) -> Verdict:
    """Cut one random network by a random plan and look at every invariant.

    Args:
        maps: Keys of `ON_MAPS`.
        tokens: Keys of `ON_TOKENS`.
        seed: Of sizes, weights and the plan.

    Returns:
        The invariants that failed: masked equals cut, module form equals graph form, a plan equals
        what its JSON says, cutting twice equals cutting once by the union.
    """
    model = RandomNetwork(maps, tokens, seed)
    network = Network.of(model, fresh_input(2))
    drop = draw_drop(network, seed)
    plan = network.plan(drop)
    failed = [] if Plan.from_json(plan.to_json()) == plan else ["the plan differs from its JSON"]
    silent = False
    try:
        failed += _forms(model, network.cut(plan))
        failed += _twice(network, network.cut(plan), seed)
    except Mismatch as error:
        failed.append(f"the proof fails: {error}")
    except VerificationError as error:
        silent = "moved no output" in str(error)
        failed += [] if silent else [str(error)]
    except PenjingError as error:
        failed.append(f"{type(error).__name__}: {error}")
    found = network.groups
    return Verdict(tuple(failed), len(found), len(found.locked) - 1, found.reachable, silent)


def _apart(left: Tensor, right: Tensor) -> float:
    return float((left - right).abs().max() / right.abs().max().clamp_min(1e-12))


@torch.no_grad()
def _forms(model: nn.Module, cut: Cut) -> list[str]:
    """Module form against graph form, and both against the masked original where that is exact."""
    failed = []
    x = fresh_input()
    made = make(model, cut).model(x)
    form = graph_form(cut.program)(x)
    if not _apart(made, form) <= EQUAL:
        failed.append(f"the module differs from the graph form by {_apart(made, form):.1e}")
    if all(cut.network.groups[name].exact for name in cut.plan.drop):
        twin = copy.deepcopy(model)
        twin.load_state_dict({**model.state_dict(), **cut.masked()})
        if not _apart(form, twin(x)) <= EQUAL:
            failed.append(f"the cut differs from the masked by {_apart(form, twin(x)):.1e}")
    return failed


def _twice(network: Network, first: Cut, seed: int) -> list[str]:
    """A second plan on the cut network against one plan of both."""
    smaller = (
        Network.of(graph_form(first.program), fresh_input(2))
        if seed % EXPORTED_AGAIN == 0
        else Network(first.program)
    )
    names = {group.places: group.name for group in smaller.groups}
    drawn, union, second = draw_drop(smaller, seed + 1), dict(first.plan.drop), {}
    for group in network.groups:
        name = names.get(first.group(group).places)
        if name not in drawn:  # one unit is left, or none of it is drawn
            continue
        kept = first.plan.kept(group.name)
        second[name] = drawn[name]
        gone = {*union.get(group.name, ()), *(kept[unit] for unit in drawn[name])}
        union[group.name] = tuple(sorted(gone))
    twice = smaller.cut(smaller.plan(second)).program.tensors
    once = network.cut(network.plan(union)).program.tensors
    same = twice.keys() == once.keys() and all(torch.equal(twice[n], once[n]) for n in once)
    return [] if same else ["cutting twice differs from cutting once by the union"]
