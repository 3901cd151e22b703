"""Which weights of a network may become sparse, and why the others stay dense."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import get_args

from torch import fx, nn

from penjing.errors import StrategyError
from penjing.graph.call import Call, op_name
from penjing.graph.capture import Program
from penjing.pruning.patterns import Indivisible, Pattern, Tiling
from penjing.pruning.selection import Key, matches
from penjing.pruning.weights.protocol import Target
from penjing.statistics.grams import Layer, layers

ROLES = ("first", "last", "depthwise")
_RECURRENT = {"lstm", "gru", "rnn_tanh", "rnn_relu"}
_LAYERS = {"linear", "convolution", *(f"conv{d}d" for d in "123")}
_COMPUTE = _RECURRENT | _LAYERS | {f"conv_transpose{d}d" for d in "123"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a caller wants sparse.

    Args:
        pattern: The shape of sparsity.
        keep_dense: Roles whose layers stay dense: "first", "last", "depthwise".
        ignored_layers: Modules, names, globs or types that stay dense.
        indivisible: What happens where the pattern does not divide a layer: "error", "pad" (the
            last block is smaller) or "skip" (the layer stays dense).

    Raises:
        StrategyError: An unknown role or choice.
    """

    pattern: Pattern
    keep_dense: tuple[str, ...] = ROLES
    ignored_layers: tuple[Key, ...] = ()
    indivisible: Indivisible = "error"

    def __post_init__(self) -> None:
        unknown = sorted(set(self.keep_dense) - set(ROLES))
        if unknown:
            raise StrategyError(f"keep_dense has {unknown[0]!r}; known are {', '.join(ROLES)}")
        if self.indivisible not in get_args(Indivisible):
            raise StrategyError(
                f"indivisible is {self.indivisible!r}; known are {get_args(Indivisible)}"
            )


def find_targets(
    model: nn.Module, program: Program, wanted: Wanted
) -> tuple[list[Target], dict[str, str]]:
    """Weights that may become sparse.

    Args:
        model: The network, for the names of its layers.
        program: Its capture.
        wanted: What is wanted sparse.

    Returns:
        The targets in the order of the graph; and by name of the weight why others stay dense.

    Raises:
        StrategyError: An ignored layer matches nothing, or the pattern does not divide a layer.
    """
    uses, dense = _uses(program)
    for name, why in _kept_by_choice(model, program, uses, wanted).items():
        dense[name] = why
        uses.pop(name, None)
    targets, odd = [], {}
    for name, using in uses.items():
        target = Target(name, _tiling(program, name, using, wanted.pattern), tuple(using))
        tiling = target.tiling
        why = wanted.pattern.obstacle(tiling.outputs, tiling.channels)
        if why and wanted.indivisible != "pad":
            odd[name] = why
        else:
            targets.append(target)
    if odd and wanted.indivisible == "error":
        raise StrategyError(
            f"pattern {wanted.pattern.name!r} does not divide "
            + "; ".join(f"{n.removesuffix('.weight')!r}: {why}" for n, why in odd.items())
            + ". Leave them out with ignored_layers=, or give indivisible='pad' or 'skip'"
        )
    return targets, {**dense, **odd}


def _tiling(program: Program, name: str, using: list[Layer], pattern: Pattern) -> Tiling:
    weight = program.tensors[name]
    matrix = using[0].matrix(weight) if using else weight[None]
    taps = max(1, matrix[0, 0].numel() // _channels(matrix.shape[2], using, weight.shape))
    return Tiling.of(pattern, matrix, taps)


def _channels(unknowns: int, using: list[Layer], shape: tuple[int, ...]) -> int:
    """Input channels of one convolution group."""
    if not using or not using[0].kernel:
        return unknowns
    return shape[0] // using[0].groups if using[0].transposed else shape[1]


def _uses(program: Program) -> tuple[dict[str, list[Layer]], dict[str, str]]:
    """Layers that use each weight, none for recurrent matrices; and weights that stay dense."""
    known, refused = layers(program)
    uses: dict[str, list[Layer]] = {}
    for node in program.graph.nodes:
        if node.name in known:
            uses.setdefault(known[node.name].weight, []).append(known[node.name])
        elif node.op == "call_function" and op_name(node) in _RECURRENT:
            for name in _matrices(program, node):
                uses.setdefault(name, [])
    dense = {name: f"{why}" for name, why in refused.items()}
    names: dict[int, list[str]] = {}
    for name in program.stored.values():
        names.setdefault(program.tensors[name].data_ptr(), []).append(name)
    for name in list(uses):
        others = [n for n in names[program.tensors[name].data_ptr()] if n != name]
        if others or not _only_layers(program, name):
            dense[name] = "its weight is also read by another op"
            del uses[name]
    return uses, dense


def _only_layers(program: Program, name: str) -> bool:
    """Whether nothing but layers and recurrent ops reads a weight."""
    nodes = [program.nodes[p] for p, fqn in program.stored.items() if fqn == name]
    return all(op_name(user) in _COMPUTE for node in nodes for user in node.users)


def _matrices(program: Program, node: fx.Node) -> list[str]:
    """Weight matrices of a recurrent op."""
    params = Call(node).arg("params") or ()
    names = [program.stored[p.name] for p in params if p.name in program.stored]
    return [name for name in names if program.tensors[name].dim() > 1]


def _kept_by_choice(
    model: nn.Module, program: Program, uses: Mapping[str, list[Layer]], wanted: Wanted
) -> dict[str, str]:
    """Weights that the caller keeps dense, and the reason."""
    found: dict[str, str] = {}
    ignored: set[str] = set()
    for key in wanted.ignored_layers:
        ignored |= matches(model, key)
    ends = _ends(program)
    for name, using in uses.items():
        for role in wanted.keep_dense:
            held = _depthwise(program, using) if role == "depthwise" else name in ends[role]
            if held:
                found[name] = f"it is {'a' if role == 'depthwise' else 'the'} {role} layer"
        if name in ignored or name.rpartition(".")[0] in ignored:
            found[name] = "it is among ignored_layers"
    return found


def _depthwise(program: Program, using: Iterable[Layer]) -> bool:
    def channels(layer: Layer) -> int:
        return program.tensors[layer.weight].shape[1 if not layer.transposed else 0]

    return any(
        layer.kernel
        and layer.groups > 1
        and (channels(layer) // layer.groups if layer.transposed else channels(layer)) == 1
        for layer in using
    )


def _ends(program: Program) -> dict[str, set[str]]:
    """Weights of the first layers, which no layer feeds, and of the last, which feed none."""
    nodes = [n for n in program.graph.nodes if n.op == "call_function"]
    computing = {n for n in nodes if op_name(n) in _COMPUTE}
    return {
        "first": _weights(program, _without(program.graph.nodes, computing, ahead=False)),
        "last": _weights(program, _without(reversed(program.graph.nodes), computing, ahead=True)),
    }


def _without(
    nodes: Iterable[fx.Node], computing: Collection[fx.Node], *, ahead: bool
) -> set[fx.Node]:
    """Computing nodes that none other comes before (or after, with `ahead`)."""
    reached: set[fx.Node] = set()
    for node in nodes:
        others = node.users if ahead else node.all_input_nodes
        if any(other in computing or other in reached for other in others):
            reached.add(node)
    return {node for node in computing if node not in reached}


def _weights(program: Program, nodes: Iterable[fx.Node]) -> set[str]:
    return {
        program.stored[n.name]
        for node in nodes
        for n in node.all_input_nodes
        if n.name in program.stored
    }
