"""Exit points: where one tensor of features carries everything that the rest of a network needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import fx

from penjing.counts.macs import Counter
from penjing.errors import InputError, StrategyError
from penjing.graph.call import is_tensor
from penjing.graph.capture import Program
from penjing.graph.parts import Flow, has_batch

STAGE_REACH = 0.1  # of all MACs: how far the end of a stage may lie from the share asked for

At = str | float
"""Name of a module or node, or a share of the MACs in (0, 1)."""


@dataclass(frozen=True, slots=True)
class Point:
    """A place where an exit can be attached.

    Args:
        node: Name of the node whose value the exit reads.
        name: Module that made it, else the node.
        share: MACs of the network up to here, as a share of all.
        stage_end: Whether the resolution or length changes right behind it.
        names: Nodes and modules that stand for the place: between two layers there is one place.
    """

    node: str
    name: str
    share: float
    stage_end: bool
    names: frozenset[str] = frozenset()


def exit_points(program: Program) -> tuple[Point, ...]:
    """Every place for an exit, in the order of the network.

    A place is where of all values that depend on the network's weights only one is still needed;
    what is made of the inputs alone, such as a mask, may be needed as well. Of several in a row
    without a layer between them the last one of the same rank is taken.

    Args:
        program: A captured network with a free batch.
    """
    flow, counter = Flow(program), Counter(program)
    size = counter.sizes.single
    costs = {node: rule(node, size) for node, rule in counter.layers}
    total = sum(costs.values()) or 1
    found: list[tuple[fx.Node, float]] = []
    done = 0
    for node in program.graph.nodes:
        done += costs.get(node, 0)
        if 0 < done < total and _carries_all(flow, node):
            found.append((node, done / total))
    by_share: dict[float, list[fx.Node]] = {}
    for node, share in found:
        by_share.setdefault(share, []).append(node)
    kept = [(_last_alike(nodes), share) for share, nodes in by_share.items()]
    spans = [_span(program, node) for node, _ in kept]
    return tuple(
        Point(
            node.name,
            _module_of(node),
            share,
            spans[i + 1 : i + 2] != [spans[i]],
            frozenset(name for n in by_share[share] for name in (n.name, _module_of(n))),
        )
        for i, (node, share) in enumerate(kept)
    )


def _last_alike(nodes: Sequence[fx.Node]) -> fx.Node:
    """The last of the nodes between two layers that has the rank of the first."""
    return [node for node in nodes if _rank(node) == _rank(nodes[0])][-1]


def choose(
    points: Sequence[Point], exits: int | None, at: Sequence[At] | None
) -> tuple[Point, ...]:
    """The points that were asked for, in the order of the network.

    Args:
        points: All that there are.
        exits: Number of early exits, at equal shares of the MACs, at ends of stages where one is
            near.
        at: Names or shares instead.

    Raises:
        InputError: There are fewer points than exits, or none of that name.
        StrategyError: Neither or both of `exits` and `at` were given, or values out of range.
    """
    if (exits is None) == (at is None):
        raise StrategyError("give either exits=2, the number of early exits, or at=[...], not both")
    if not points:
        raise InputError(
            "the network has no place for an exit: nowhere does one tensor of features carry all "
            "that its rest needs"
        )
    if exits is not None:
        if not 1 <= exits <= len(points):
            raise InputError(f"exits is {exits}; the network has 1 to {len(points)} places for one")
        wanted: Sequence[At] = [(k + 1) / (exits + 1) for k in range(exits)]
    else:
        wanted = list(at or ())
    if not wanted:
        raise StrategyError("at is empty; name a module, or give a share of the MACs such as 0.5")
    found: list[Point] = []
    for one in wanted:
        left = [point for point in points if point not in found]
        found.append(_named(points, one) if isinstance(one, str) else _nearest(left, one))
    if len(set(found)) < len(found):
        raise StrategyError(f"at={list(wanted)} names the same place twice")
    return tuple(point for point in points if point in found)


def _nearest(points: Sequence[Point], share: float) -> Point:
    if not 0 < share < 1:
        raise StrategyError(f"at holds {share}; a share of the MACs lies between 0 and 1")
    if not points:
        raise InputError("at asks for more exits than the network has places for")
    ends = [p for p in points if p.stage_end and abs(p.share - share) <= STAGE_REACH]
    return min(ends or points, key=lambda point: abs(point.share - share))


def _named(points: Sequence[Point], name: str) -> Point:
    inside = [p for p in points if any(f"{n}.".startswith(f"{name}.") for n in p.names)]
    if not inside:
        known = ", ".join(dict.fromkeys(point.name for point in points))
        raise InputError(f"there is no place for an exit at {name!r}; the places are {known}")
    return inside[-1]


def _carries_all(flow: Flow, node: fx.Node) -> bool:
    if not (is_tensor(node) and has_batch(node) and node.meta["val"].is_floating_point()):
        return False
    if node not in flow.learned:
        return False
    crossing = flow.crossing(node)
    features = [other for other in crossing if other in flow.learned]
    return features == [node] and all(is_tensor(n) and has_batch(n) for n in crossing)


def _rank(node: fx.Node) -> int:
    return len(node.meta["val"].shape)


def _span(program: Program, node: fx.Node) -> tuple[int, ...]:
    """Spatial sizes, or the length of a sequence."""
    shape = program.shape(node)
    return shape[2:] if len(shape) > 3 else shape[1:-1]


def _module_of(node: fx.Node) -> str:
    """Innermost module of the user that made a value."""
    stack = node.meta.get("nn_module_stack") or {}
    names = [path for path, _ in stack.values() if path]
    return names[-1] if names else node.name
