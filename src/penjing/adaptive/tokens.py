"""Shorter streams: where a transformer's tokens are, and its graph with fewer of them.

The tokens' dimension is followed through the graph from the first place where tokens go; every
size constant in which it is written is set to the number that is left there. What cannot be
followed is an error that names the op.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, Literal

import torch
from torch import fx

from penjing.errors import InputError, StrategyError
from penjing.graph import tokens as functions
from penjing.graph.call import Call, is_pointwise, is_tensor, op_name, where
from penjing.graph.capture import Program
from penjing.graph.parts import Flow, has_batch

Method = Literal["merge", "attention", "norm"]
LAST = 9223372036854775807  # what torch writes for the end of a slice

_SAME = {
    *("layer_norm", "rms_norm", "linear", "dropout", "contiguous", "clone", "alias", "detach"),
    *("_to_copy", "to", "type_as", "detach_"),
}
_RESHAPES = {"view": "size", "reshape": "shape", "_unsafe_view": "size", "expand": "size"}


@dataclass(frozen=True, slots=True)
class Site:
    """One self-attention layer and the stream behind it.

    Args:
        attention: The attention node.
        stream: The node that adds its result to the stream, `(B, T, D)`.
    """

    attention: fx.Node
    stream: fx.Node


def find_sites(program: Program) -> list[Site]:
    """Self-attention layers whose result is added to a stream of tokens, in order.

    Args:
        program: A captured network.
    """
    found = []
    for node in program.graph.nodes:
        if op_name(node) != "scaled_dot_product_attention":
            continue
        query, key = (program.shape(n) for n in node.args[:2])
        stream = _addition(program, node)
        if len(query) == 4 and query[-2] == key[-2] and stream is not None:
            found.append(Site(node, stream))
    return found


def _addition(program: Program, attention: fx.Node) -> fx.Node | None:
    """The first addition of something of attention to something that is not."""
    tokens = program.shape(attention)[-2]
    behind = {attention}
    nodes: list[fx.Node] = list(program.graph.nodes)
    for node in nodes:
        sources = [source in behind for source in node.all_input_nodes]
        if not any(sources):
            continue
        if op_name(node) == "add" and sorted(sources) == [False, True]:
            shape = program.shape(node)
            apart = all(program.shape(n) == shape for n in node.all_input_nodes)
            if apart and len(shape) == 3 and shape[1] == tokens and has_batch(node):
                return node
        behind.add(node)
    return None


@dataclass(frozen=True, slots=True)
class Present:
    """The tokens of one value.

    Args:
        dim: Where they are.
        count: How many there are now.
        size: Node that says how many each one stands for; None while each is one.
    """

    dim: int
    count: int
    size: fx.Node | None = None


@dataclass(eq=False, slots=True)
class Shortening:
    """Writes the graph of a transformer with fewer tokens.

    Args:
        program: The network.
        sites: Its attention layers.
        goes: Tokens that go behind each of them.
        method: How they are chosen.
        protected: Tokens at the front that stay.
    """

    program: Program
    sites: Sequence[Site]
    goes: Sequence[int]
    method: Method
    protected: int
    graph: fx.Graph = field(default_factory=fx.Graph)
    at: dict[fx.Node, fx.Node] = field(default_factory=dict)
    present: dict[fx.Node, Present] = field(default_factory=dict)
    counts: list[int] = field(default_factory=list)
    reads_first: bool = False
    added: int = 0

    def write(self) -> Program:
        """The program with fewer tokens.

        Raises:
            InputError: An op through which tokens cannot be followed.
            StrategyError: More tokens go than there are.
        """
        behind = {site.stream: k for k, site in enumerate(self.sites)}
        for node in self.program.graph.nodes:
            twin = self.graph.node_copy(node, lambda n: self.at[n])
            twin.name = node.name
            self.at[node] = twin
            if node.op == "call_function" and any(n in self.present for n in node.all_input_nodes):
                self._follow(node, twin)
            if node in behind:
                self._shorten(node, behind[node])
        self.graph.lint()
        module = fx.GraphModule(self.program.graph_module, self.graph)
        return replace(self.program, graph_module=module)

    def hides_nothing(self, mask: fx.Node) -> bool:
        """Whether a mask is the same for all inputs and lets every token see every other."""
        if mask in Flow(self.program).moving:
            return False
        _, found = self.program.inner(self.program.example, [mask.name])
        value = found[mask.name]
        return bool(value.all() if value.dtype == torch.bool else (value == 0).all())

    def _shorten(self, node: fx.Node, index: int) -> None:
        """Let tokens go behind one layer."""
        site, r = self.sites[index], self.goes[index]
        tokens = self.present.get(node, Present(1, self.program.shape(node)[1]))
        left = tokens.count - self.protected
        if r < 0 or r > (left // 2 if self.method == "merge" else left - 1):
            raise StrategyError(
                f"{r} tokens cannot go behind layer {index}, which has {tokens.count}"
                + (" and merges at most half of them" if self.method == "merge" else "")
            )
        if r:
            stream, size = self._written(site, self.at[node], tokens, r)
            self.at[node] = stream
            tokens = Present(1, tokens.count - r, size)
        self.present[node] = tokens
        self.counts.append(tokens.count)

    def _written(
        self, site: Site, stream: fx.Node, tokens: Present, r: int
    ) -> tuple[fx.Node, fx.Node | None]:
        """The shorter stream, and how many tokens each one stands for."""
        query, key = (self.at[n] for n in site.attention.args[:2])  # type: ignore[index]
        if self.method == "norm":
            return self.call(functions.drop_by_norm, (stream, r, self.protected)), None
        if self.method == "attention":
            call = Call(site.attention)
            mask, causal = call.arg("attn_mask"), bool(call.arg("is_causal"))
            mask = None if mask is None or self.hides_nothing(mask) else self.at[mask]
            given = (stream, query, key, r, self.protected, call.arg("scale"), mask, causal)
            return self.call(functions.drop_by_attention, given), None
        merging = (stream, key, tokens.size, r, self.protected)
        made = self.call(functions.merge_tokens, merging)
        return self.call(operator.getitem, (made, 0)), self.call(operator.getitem, (made, 1))

    def call(self, function: Callable[..., Any], args: tuple[Any, ...]) -> fx.Node:
        """A new node; its name is none that the original has, whose names stay as they are."""
        node = self.graph.call_function(function, args)
        self.added += 1
        node.name = f"fewer_tokens_{self.added}"
        return node

    def _follow(self, node: fx.Node, twin: fx.Node) -> None:
        """Where the tokens are in the result of an op, and its constants for their number."""
        name = op_name(node)
        rule = _RULES.get(name)
        if rule is not None:
            rule(self, node, twin)
        elif is_pointwise(node) or name in _SAME:
            self._aligned(node, name)
        else:
            self._refuse(node)

    def _aligned(self, node: fx.Node, name: str) -> None:
        """Element-wise ops, and layers that act on the last dimension."""
        rank = len(self.program.shape(node))
        places = {self._from_right(n) for n in node.all_input_nodes if n in self.present}
        if len(places) != 1:
            self._refuse(node)
        ((back, count, size),) = places
        for other in node.all_input_nodes:
            if other not in self.present and is_tensor(other) and name not in _SAME:
                shape = self.program.shape(other)
                if len(shape) >= back and shape[-back] != 1:
                    self._refuse(node, "reads one value per token of the original network")
        if name in _SAME and back <= _acts_on(node):
            self._refuse(node)
        self.present[node] = Present(rank - back, count, size)

    def _from_right(self, node: fx.Node) -> tuple[int, int, fx.Node | None]:
        tokens = self.present[node]
        return len(self.program.shape(node)) - tokens.dim, tokens.count, tokens.size

    def _first(self, node: fx.Node) -> tuple[fx.Node, Present]:
        """The argument that has tokens, which must be the first one."""
        source = node.args[0]
        if not isinstance(source, fx.Node) or source not in self.present:
            self._refuse(node)
        assert isinstance(source, fx.Node)  # it was just checked
        return source, self.present[source]

    def _refuse(self, node: fx.Node, why: str = "is an op behind which tokens are lost") -> None:
        place = where(node)
        raise InputError(
            f"tokens cannot be followed through the network: node {node.name!r} ({op_name(node)}"
            f"{', ' + place if place else ''}) {why}; only encoders whose layers keep tokens in a "
            "dimension of their own can have fewer"
        )


def _acts_on(node: fx.Node) -> int:
    """How many of the last dimensions a layer works on."""
    norms = op_name(node) in {"layer_norm", "rms_norm"}
    return len(Call(node).arg("normalized_shape")) if norms else 1


def _reshape(work: Shortening, node: fx.Node, twin: fx.Node) -> None:
    source, tokens = work._first(node)
    before, after = work.program.shape(source), work.program.shape(node)
    length, front = before[tokens.dim], prod(before[: tokens.dim])
    places = [d for d, n in enumerate(after) if n == length and prod(after[:d]) == front]
    if not places:
        work._refuse(node, "puts tokens and something else into one dimension")
    argument = _RESHAPES[op_name(node)]
    sizes = list(Call(twin).arg(argument))
    if isinstance(sizes[places[0]], int) and sizes[places[0]] != -1:
        sizes[places[0]] = tokens.count
    Call(twin).set_arg(argument, sizes)
    work.present[node] = replace(tokens, dim=places[0])


def _flatten(work: Shortening, node: fx.Node, _twin: fx.Node) -> None:
    source, tokens = work._first(node)
    rank = len(work.program.shape(source))
    start, end = (Call(node).arg(n) % rank for n in ("start_dim", "end_dim"))
    if start <= tokens.dim <= end and start != end:
        work._refuse(node, "puts tokens and something else into one dimension")
    work.present[node] = replace(tokens, dim=tokens.dim - (end - start if tokens.dim > end else 0))


def _unflatten(work: Shortening, node: fx.Node, _twin: fx.Node) -> None:
    source, tokens = work._first(node)
    dim = Call(node).arg("dim") % len(work.program.shape(source))
    if dim == tokens.dim:
        work._refuse(node, "splits the tokens")
    more = len(Call(node).arg("sizes")) - 1
    work.present[node] = replace(tokens, dim=tokens.dim + (more if dim < tokens.dim else 0))


def _transpose(work: Shortening, node: fx.Node, _twin: fx.Node) -> None:
    source, tokens = work._first(node)
    rank = len(work.program.shape(source))
    order = list(range(rank))
    if op_name(node) == "permute":
        order = [d % rank for d in Call(node).arg("dims")]
    else:
        first, second = (Call(node).arg(n) % rank for n in ("dim0", "dim1"))
        order[first], order[second] = order[second], order[first]
    work.present[node] = replace(tokens, dim=order.index(tokens.dim))


def _select(work: Shortening, node: fx.Node, _twin: fx.Node) -> None:
    source, tokens = work._first(node)
    dim = Call(node).arg("dim") % len(work.program.shape(source))
    if dim != tokens.dim:
        work.present[node] = replace(tokens, dim=tokens.dim - (dim < tokens.dim))
    elif Call(node).arg("index") == 0:
        work.reads_first = True
    else:
        work._refuse(node, "reads a token by its place")


def _slice(work: Shortening, node: fx.Node, _twin: fx.Node) -> None:
    source, tokens = work._first(node)
    call = Call(node)
    dim = call.arg("dim", 0) % len(work.program.shape(source))
    whole = call.arg("start", 0) == 0 and call.arg("end", LAST) == LAST
    if dim != tokens.dim or whole:
        work.present[node] = tokens
    elif call.arg("start", 0) == 0 and call.arg("end") == 1:
        work.reads_first = True
    else:
        work._refuse(node, "reads tokens by their places")


def _split(work: Shortening, node: fx.Node, _twin: fx.Node) -> None:
    source, tokens = work._first(node)
    dim = Call(node).arg("dim", 0) % len(work.program.shape(source))
    if dim == tokens.dim:
        work._refuse(node, "splits the tokens")
    gone = op_name(node) == "unbind" and dim < tokens.dim
    work.present[node] = replace(tokens, dim=tokens.dim - gone)


def _item(work: Shortening, node: fx.Node, _twin: fx.Node) -> None:
    _, tokens = work._first(node)
    work.present[node] = tokens


def _unsqueeze(work: Shortening, node: fx.Node, _twin: fx.Node) -> None:
    source, tokens = work._first(node)
    dim = Call(node).arg("dim") % (len(work.program.shape(source)) + 1)
    work.present[node] = replace(tokens, dim=tokens.dim + (dim <= tokens.dim))


def _mean(work: Shortening, node: fx.Node, twin: fx.Node) -> None:
    source, tokens = work._first(node)
    rank = len(work.program.shape(source))
    dims = [d % rank for d in Call(node).arg("dim") or range(rank)]
    if tokens.dim not in dims:
        lost = 0 if Call(node).arg("keepdim") else sum(d < tokens.dim for d in dims)
        work.present[node] = replace(tokens, dim=tokens.dim - lost)
    elif len(dims) > 1 or rank != 3 or tokens.dim == 0:
        work._refuse(node, "takes the mean over tokens and more")
    elif tokens.size is not None:
        twin.target = functions.weighted_mean
        keep = bool(Call(node).arg("keepdim"))
        twin.args, twin.kwargs = (twin.args[0], tokens.size, tokens.dim, keep), {}


def _attention(work: Shortening, node: fx.Node, twin: fx.Node) -> None:
    parts = node.args[:3]
    known = {work.present.get(n) for n in parts}  # type: ignore[arg-type]
    if len(known) != 1 or None in known:
        work._refuse(node, "mixes tokens with others")
    (tokens,) = known
    assert tokens is not None  # it was just checked
    if tokens.dim != len(work.program.shape(node)) - 2:
        work._refuse(node, "does not attend over tokens")
    mask = Call(node).arg("attn_mask")
    if Call(node).arg("is_causal") or (mask is not None and not work.hides_nothing(mask)):
        work._refuse(node, "has a mask, which is written for the tokens of the original network")
    bias = None
    if tokens.size is not None:
        with work.graph.inserting_before(twin):
            bias = work.call(functions.size_bias, (tokens.size,))
    if mask is not None or bias is not None:
        Call(twin).set_arg("attn_mask", bias)
    work.present[node] = tokens


_Rule = Callable[[Shortening, fx.Node, fx.Node], None]

_RULES: Mapping[str, _Rule] = {
    **dict.fromkeys(_RESHAPES, _reshape),
    "flatten": _flatten,
    "unflatten": _unflatten,
    **dict.fromkeys(("transpose", "permute"), _transpose),
    "select": _select,
    "slice": _slice,
    **dict.fromkeys(("chunk", "split", "split_with_sizes", "unbind"), _split),
    "getitem": _item,
    "unsqueeze": _unsqueeze,
    "mean": _mean,
    "scaled_dot_product_attention": _attention,
}


def shorten(
    program: Program, goes: int | Sequence[int], method: Method, protected: int | None = None
) -> tuple[Program, list[int], int]:
    """A transformer of which every layer passes on fewer tokens.

    Args:
        program: The network.
        goes: Tokens that go behind every attention layer, or one number for each.
        method: "merge", or what they are dropped by: "attention" or "norm".
        protected: Tokens at the front that stay, 0 or 1; None is 1 where the network reads the
            first token by itself.

    Returns:
        The program, the tokens behind each layer, and how many are protected.

    Raises:
        InputError: No attention layer was found, or tokens cannot be followed.
        StrategyError: Numbers that do not fit.
    """
    sites = find_sites(program)
    if not sites:
        raise InputError(
            "the network has no self-attention whose result is added to a stream of tokens "
            "(batch, tokens, width); attention is found as scaled_dot_product_attention "
            "(attn_implementation='sdpa' in transformers)"
        )
    each = [goes] * len(sites) if isinstance(goes, int) else list(goes)
    if len(each) != len(sites):
        raise StrategyError(f"r names {len(each)} layers; the network has {len(sites)}")
    work = Shortening(program, sites, each, method, protected or 0)
    made = work.write()
    if protected is None and work.reads_first:
        return shorten(program, goes, method, 1)
    return made, work.counts, protected or 0
