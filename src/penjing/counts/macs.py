"""Multiply-accumulates, by one rule that can be checked by hand.

The rule: one multiplication together with its addition is one MAC. Counted are the products of
convolutions (plain, grouped, transposed), linear layers, matrix products (`matmul` and its kin,
`einsum`), attention (both products, a causal mask takes nothing off) and recurrent layers (every
weight matrix once per time step and direction). At batch one. Not counted: biases, norms,
activations, poolings, embeddings, softmax and everything element-wise. A product of operands that
do not depend on the input counts as well: it is computed in every call.

    convolution             output elements x weight elements per output channel
    transposed convolution  input elements x weight elements per input channel
    linear, matmul          output elements x length of the inner dimension
    einsum                  product of all index sizes, pairwise from the left for more operands
    attention               heads x queries x keys x (query width + value width)
    recurrent               time steps x elements of the weight matrices
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import fx

from penjing.counts.params import count_nonzero, count_params
from penjing.counts.sizes import Shape, Sizes
from penjing.figures import LayerFigures
from penjing.graph.call import op_name
from penjing.graph.capture import Program
from penjing.graph.form import identity

ROUNDING = 1e-6  # of a multiplication, where shares are multiplied

SizeOf = Callable[[fx.Node], tuple[int, ...]]
"""Shape of a node at batch one."""

Rule = Callable[[fx.Node, SizeOf], int]


class Counter:
    """Counts one program, as it is or with other shapes; the graph is walked once, at the start.

    Args:
        program: A captured network.

    Attributes:
        layers: Nodes that compute, with the rule that counts each.
        stored: Placeholders of the parameters, one for tied ones.

    Example:
        >>> from torch import nn
        >>> from penjing.graph.capture import capture
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Flatten(), nn.Linear(128, 5))
        >>> Counter(capture(net, torch.ones(1, 3, 4, 4))).macs()  # 8*16*27 + 128*5
        4096
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.sizes = Sizes(program)
        rules = ((n, _rule(n)) for n in program.graph.nodes if n.op == "call_function")
        self.layers = [(node, rule) for node, rule in rules if rule is not None]
        self.stored = _unique_parameters(program)

    def macs(self, shape: Shape | None = None, shares: Mapping[str, float] | None = None) -> int:
        """Multiply-accumulates of the whole network at batch one.

        Args:
            shape: Shape of a node at the sizes of the example, for instance after a cut; None for
                the program as it is.
            shares: Share of its products that a layer makes, by name of its node; all of them
                where it is not named.

        Returns:
            The count.
        """

        def size(node: fx.Node) -> tuple[int, ...]:
            return self.sizes.single(node, shape)

        if shares is None:
            return sum(rule(node, size) for node, rule in self.layers)
        made = (rule(node, size) * shares.get(node.name, 1.0) for node, rule in self.layers)
        return math.ceil(sum(made) - ROUNDING)

    def params(self, shape: Shape | None = None) -> int:
        """Elements of all parameters, tied ones once.

        Args:
            shape: As for `macs`.

        Returns:
            The count.
        """
        return sum(prod((shape or self.program.shape)(node)) for node in self.stored)

    def figures(self) -> tuple[LayerFigures, ...]:
        """One row per compute layer, in the order of the network.

        Returns:
            Names, parameters, nonzeros, MACs and output shapes at batch one.
        """
        constant = input_free(self.program)
        return tuple(self._row(node, rule, constant) for node, rule in self.layers)

    def _row(self, node: fx.Node, rule: Rule, constant: frozenset[fx.Node]) -> LayerFigures:
        names = _parameters_behind(node, self.program, constant)
        tensors = [self.program.tensors[name] for name in names]
        op = op_name(node)
        return LayerFigures(
            name=_layer_name(node, op, names),
            op=op,
            params=count_params(tensors),
            nonzero=count_nonzero(tensors),
            macs=rule(node, self.sizes.single),
            output_shape=next(iter(self.sizes.outputs(node)), ()),
        )


def count_macs(program: Program, shape: Shape | None = None) -> int:
    """Multiply-accumulates of a program at batch one; see `Counter` to count many times.

    Args:
        program: A captured network.
        shape: Shape of a node at the sizes of the example; None for the program as it is.

    Returns:
        The count.
    """
    return Counter(program).macs(shape)


def layer_figures(program: Program) -> tuple[LayerFigures, ...]:
    """One row per compute layer of a program, in the order of the network."""
    return Counter(program).figures()


def _rule(node: fx.Node) -> Rule | None:
    if not isinstance(node.target, torch._ops.OpOverload) or node.target.namespace != "aten":
        return None
    return RULES.get(op_name(node))


def _node(argument: Any) -> fx.Node:
    assert isinstance(argument, fx.Node)  # the schema says that it is a tensor
    return argument


def _convolution(node: fx.Node, size: SizeOf) -> int:
    return prod(size(node)) * prod(size(_node(node.args[1]))[1:])


def _transposed(node: fx.Node, size: SizeOf) -> int:
    return prod(size(_node(node.args[0]))) * prod(size(_node(node.args[1]))[1:])


def _either_convolution(node: fx.Node, size: SizeOf) -> int:
    return _transposed(node, size) if node.args[6] else _convolution(node, size)


def _linear(node: fx.Node, size: SizeOf) -> int:
    return prod(size(node)) * size(_node(node.args[1]))[-1]


def _bilinear(node: fx.Node, size: SizeOf) -> int:
    return prod(size(node)) * prod(size(_node(node.args[2]))[1:])


def _product(first: int) -> Rule:
    """Matrix product whose left operand is argument `first`."""

    def rule(node: fx.Node, size: SizeOf) -> int:
        return prod(size(node)) * size(_node(node.args[first]))[-1]

    return rule


def _summed_product(node: fx.Node, size: SizeOf) -> int:
    """`addbmm`: the batch of products is added up."""
    return prod(size(_node(node.args[1]))) * size(_node(node.args[2]))[-1]


def _attention(node: fx.Node, size: SizeOf) -> int:
    query, key, value = (size(_node(a)) for a in node.args[:3])
    return prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _recurrent(node: fx.Node, size: SizeOf) -> int:
    *rows, _ = size(_node(node.args[0]))
    weights = node.args[2]
    assert isinstance(weights, (list, tuple))  # Tensor[] in the schema
    shapes = [size(_node(w)) for w in weights]
    return prod(rows) * sum(prod(s) for s in shapes if len(s) == 2)


def _recurrent_cell(node: fx.Node, size: SizeOf) -> int:
    rows, _ = size(_node(node.args[0]))
    return rows * sum(prod(size(_node(w))) for w in node.args[2:4])


def _einsum(node: fx.Node, size: SizeOf) -> int:
    equation, operands = node.args[:2]
    assert isinstance(equation, str)
    assert isinstance(operands, (list, tuple))
    return einsum_macs(equation, [size(_node(o)) for o in operands])


def einsum_macs(equation: str, shapes: Sequence[tuple[int, ...]]) -> int:
    """MACs of an einsum, contracted pairwise from the left.

    Args:
        equation: As `torch.einsum` takes it; `...` and implicit outputs included.
        shapes: Shapes of the operands.

    Returns:
        The count; 0 for a single operand, which multiplies nothing.

    Example:
        >>> einsum_macs("ij,jk->ik", [(2, 3), (3, 4)])
        24
    """
    inputs, arrow, output = equation.replace(" ", "").partition("->")
    terms = [_indices(t, len(s)) for t, s in zip(inputs.split(","), shapes, strict=True)]
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, shapes, strict=True):
        for index, length in zip(term, shape, strict=True):
            sizes[index] = max(sizes.get(index, 1), length)
    wanted = _wanted(output, terms) if arrow else _implied(terms)
    total, left = 0, set(terms[0])
    for i, term in enumerate(terms[1:], start=2):
        joined = left | set(term)
        total += prod(sizes[index] for index in joined)
        left = joined & (wanted | {index for later in terms[i:] for index in later})
    return total


def _indices(term: str, rank: int) -> list[str]:
    """Index names of one operand; those under `...` are numbered from the right."""
    head, dots, tail = term.partition("...")
    hidden = rank - len(head) - len(tail) if dots else 0
    return [*head, *(f"...{hidden - i}" for i in range(hidden)), *tail]


def _wanted(output: str, terms: Sequence[Sequence[str]]) -> set[str]:
    hidden = {index for term in terms for index in term if index.startswith("...")}
    return set(output.replace("...", "")) | (hidden if "..." in output else set())


def _implied(terms: Sequence[Sequence[str]]) -> set[str]:
    seen = [index for term in terms for index in term]
    return {index for index in seen if seen.count(index) == 1 or index.startswith("...")}


RULES: Mapping[str, Rule] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _transposed),
    **dict.fromkeys(("convolution", "_convolution"), _either_convolution),
    "linear": _linear,
    "bilinear": _bilinear,
    **dict.fromkeys(("matmul", "mm", "bmm", "mv", "dot", "vdot", "inner"), _product(0)),
    **dict.fromkeys(("addmm", "baddbmm", "addmv"), _product(1)),
    "addbmm": _summed_product,
    "einsum": _einsum,
    "scaled_dot_product_attention": _attention,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), _recurrent),
    **dict.fromkeys(("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"), _recurrent_cell),
}
"""Name of an ATen op -> its count."""


def _unique_parameters(program: Program) -> list[fx.Node]:
    """One placeholder per parameter that is not tied to an earlier one."""
    once: dict[tuple[Any, ...], fx.Node] = {}
    for placeholder, name in program.stored.items():
        if name in program.parameters:
            once.setdefault(identity(program.tensors[name]), program.nodes[placeholder])
    return list(once.values())


def input_free(program: Program) -> frozenset[fx.Node]:
    """Nodes whose values are the same for every input: stored tensors and what they alone make."""
    free: set[fx.Node] = set()
    for node in program.graph.nodes:
        stored = node.op == "placeholder" and node.name in program.stored
        if stored or (node.op == "call_function" and all(n in free for n in node.all_input_nodes)):
            free.add(node)
    return frozenset(free)


def _parameters_behind(node: fx.Node, program: Program, constant: frozenset[fx.Node]) -> list[str]:
    """Names of the parameters that a layer reads, directly or through constant nodes."""
    found: list[str] = []
    stack, seen = list(reversed(node.all_input_nodes)), {node}
    while stack:
        source = stack.pop()
        if source in seen or source not in constant:
            continue
        seen.add(source)
        name = program.stored.get(source.name)
        if name in program.parameters:
            found.append(str(name))
        stack.extend(reversed(source.all_input_nodes))
    return found


def _layer_name(node: fx.Node, op: str, names: Sequence[str]) -> str:
    if not names:
        return node.name
    if RULES[op] in {_recurrent, _recurrent_cell}:
        return names[0].rpartition(".")[0] or node.name
    return names[0].removesuffix(".weight")
