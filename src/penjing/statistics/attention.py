"""Attention scores: products of two projections that can be re-based.

A score is the inner product of a query and a key, so any invertible change of the basis of the
head's dimensions in one of them, with its inverse in the other, leaves it as it was. The best basis
puts most of the scores in few dimensions; what is cut then is the rest.

Suffixes: E = dimensions of a head, R = dimensions kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, fx

from penjing.graph.call import Call, op_name, size_value
from penjing.graph.capture import Program
from penjing.statistics.grams import Layer

RIDGE = 1e-8  # of the mean diagonal: keeps the factor of a Gram matrix of dependent columns regular
TINY = 1e-30

_PRODUCTS = {"matmul", "bmm"}
_CARRIES = {
    "view", "reshape", "_unsafe_view", "transpose", "permute", "contiguous", "clone", "alias",
    "unflatten", "flatten", "split", "split_with_sizes", "chunk", "unbind", "getitem", "select",
    "slice", "squeeze", "unsqueeze", "expand", "t", "mT", "numpy_T", "repeat_interleave", "to",
    "_to_copy", "dropout", "movedim", "swapaxes",
}  # fmt: skip
_PARTS = {"getitem", "select", "slice"}  # what lies before is read by others too
_SCALES = {"mul", "div"}  # by a number: every score alike
_TOWARDS_SOFTMAX = {*_SCALES, "add", "sub", "masked_fill", "where", *_CARRIES}


@dataclass(frozen=True, slots=True)
class Head:
    """Queries that share one head of keys.

    Args:
        queries: Columns of the query layer's output, one tuple per query head.
        keys: Columns of the key layer's output, in the same order of dimensions.
    """

    queries: tuple[tuple[int, ...], ...]
    keys: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Product:
    """Scores of one attention.

    Args:
        node: Name of the node that takes the product.
        query: Layer that makes the queries.
        key: Layer that makes the keys; the same one where they are fused.
        heads: Which of their outputs belong together.
        centred: Whether a softmax over the keys follows, to which what all keys share is nothing.
    """

    node: str
    query: Layer
    key: Layer
    heads: tuple[Head, ...]
    centred: bool


def products(program: Program, layers: Mapping[str, Layer]) -> list[Product]:
    """Attention scores whose operands come straight from linear layers.

    Args:
        program: Captured network.
        layers: Its layers by node name.

    Returns:
        One entry per attention, in the order of the graph. A rotary embedding or a norm between
        layer and product ties the basis down: such an attention is left out.
    """
    found = (_product(program, layers, node) for node in program.graph.nodes)
    return [product for product in found if product is not None]


def _product(program: Program, layers: Mapping[str, Layer], node: fx.Node) -> Product | None:
    name = op_name(node) if node.op == "call_function" else ""
    if name == "scaled_dot_product_attention":
        call = Call(node)
        queries, keys, along, centred = call.arg("query"), call.arg("key"), -1, True
    elif name in _PRODUCTS:
        queries, keys = node.args[0], node.args[1]
        along, centred = -2, _meets_softmax(node)
    else:
        return None
    query, key = (_origin(program, operand, layers) for operand in (queries, keys))
    if query is None or key is None:
        return None
    made, met = _columns(program, queries, query, -1), _columns(program, keys, key, along)
    if made is None or met is None:
        return None
    heads = _heads(made, met, fused=query == key)
    return None if heads is None else Product(node.name, query, key, heads, centred)


def _heads(
    queries: list[tuple[int, ...]], keys: list[tuple[int, ...]], *, fused: bool
) -> tuple[Head, ...] | None:
    """Pair query heads with the key heads they meet; None where a column has two places."""
    if len(queries) % len(keys) or len(queries[0]) != len(keys[0]):
        return None
    times = len(queries) // len(keys)  # `enable_gqa`: neighbours share their keys
    shared: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for number, query in enumerate(queries):
        shared.setdefault(keys[number // times], []).append(query)
    made = [c for head in queries for c in head]
    read = [c for head in shared for c in head]
    for columns in [made + read] if fused else [made, read]:
        if len(set(columns)) != len(columns):
            return None
    return tuple(Head(tuple(group), key) for key, group in shared.items())


def _meets_softmax(node: fx.Node) -> bool:
    """Whether the product goes through a softmax over its last dimension and nowhere else."""
    for _ in range(8):
        if len(node.users) != 1:
            return False
        (node,) = node.users
        if op_name(node) in {"softmax", "_softmax"}:
            return Call(node).arg("dim") in (-1, len(node.meta["val"].shape) - 1)
        if op_name(node) not in _TOWARDS_SOFTMAX:
            return False
    return False


def _origin(program: Program, operand: object, layers: Mapping[str, Layer]) -> Layer | None:
    """The linear layer whose outputs an operand is, moved about and scaled by a number.

    None where something else reads the same values: a new basis would be seen there.
    """
    node, whole = operand, True
    while isinstance(node, fx.Node) and node.name not in layers:
        if whole and len(_readers(node)) > 1:
            return None
        whole = whole and op_name(node) not in _PARTS
        if op_name(node) in _SCALES and len(node.all_input_nodes) == 1:
            node = node.all_input_nodes[0]
        elif op_name(node) in _CARRIES and isinstance(node.args[0], fx.Node):
            node = node.args[0]
        else:
            return None
    found = layers.get(node.name) if isinstance(node, fx.Node) else None
    if found is None or found.kernel or (whole and len(_readers(program.nodes[found.node])) > 1):
        return None
    return found


def _readers(node: fx.Node) -> list[fx.Node]:
    """What reads the values of a node, and not only its size."""
    return [n for n in node.users if isinstance(n.meta.get("val"), (Tensor, list, tuple))]


def _columns(
    program: Program, operand: fx.Node, layer: Layer, axis: int
) -> list[tuple[int, ...]] | None:
    """Per head the columns of the layer's output along `axis` of the operand; None if unclear."""
    start = program.nodes[layer.node]
    shape = program.shape(start)
    seen: dict[str, object] = {start.name: torch.arange(shape[-1]).expand(shape).contiguous()}
    try:
        moved = _moved(operand, seen)
    except (RuntimeError, KeyError, TypeError):
        return None  # an op of `_CARRIES` used in a way that indices cannot follow
    along = moved.movedim(axis, -1)
    rows = along.reshape(-1, *along.shape[-2:]) if along.dim() > 2 else along[None]
    if along.dim() == 4:
        rows = along[0]
    elif along.dim() != 3 or not bool((rows == rows[0]).all()):
        return None
    if not bool((rows == rows[:, :1]).all()):
        return None
    if along.dim() == 4:
        return [tuple(head.tolist()) for head in rows[:, 0]]
    return [tuple(rows[0, 0].tolist())]


def _moved(node: fx.Node, seen: dict[str, object]) -> Tensor:
    """Where every position of a node comes from."""
    if node.name not in seen:
        if op_name(node) in _SCALES:
            return _moved(node.all_input_nodes[0], seen)
        seen[node.name] = Call(node).run(partial(_look, seen))
    found = seen[node.name]
    assert isinstance(found, Tensor)
    return found


def _look(seen: dict[str, object], node: fx.Node) -> object:
    if node.name in seen:
        return seen[node.name]
    if not isinstance(node.meta.get("val"), (Tensor, list, tuple)):
        return size_value(node)
    if op_name(node) in _SCALES:
        return _moved(node, seen)
    seen[node.name] = Call(node).run(partial(_look, seen))
    return seen[node.name]


@dataclass(slots=True)
class Scores:
    """Second moments of one head's queries and keys, float64.

    Args:
        queries_EE: Sum over rows of all query heads of q qᵀ.
        keys_EE: Sum of k kᵀ.
        mean_E: Sum of the keys.
        rows: Rows of keys.
    """

    queries_EE: Tensor
    keys_EE: Tensor
    mean_E: Tensor
    rows: int = 0

    @classmethod
    def zeros(cls, size: int, device: torch.device | str = "cpu") -> Scores:
        """Empty sums for a head of `size` dimensions."""
        square = torch.zeros(size, size, dtype=torch.float64, device=device)
        return cls(square, square.clone(), square[0].clone())

    def add(self, head: Head, queries: Tensor, keys: Tensor) -> None:
        """Add the outputs of the two layers, in place."""
        for columns in head.queries:
            q = queries[..., list(columns)].flatten(0, -2).double()
            self.queries_EE += q.mT @ q
        k = keys[..., list(head.keys)].flatten(0, -2).double()
        self.keys_EE += k.mT @ k
        self.mean_E += k.sum(0)
        self.rows += len(k)

    def moments(self, centred: bool) -> tuple[Tensor, Tensor]:
        """Of the queries and of the keys, these about their mean where that plays no part."""
        shared = self.mean_E[:, None] * self.mean_E / max(self.rows, 1)
        return self.queries_EE, self.keys_EE - shared if centred else self.keys_EE

    def lost(self, gone: Sequence[int], centred: bool) -> float:
        """Share of the squared scores that is lost when dimensions just go."""
        q, k = self.moments(centred)
        at = list(gone)
        return float((q[at][:, at] * k[at][:, at]).sum() / (q * k).sum().clamp_min(TINY))

    def energy(self, centred: bool) -> Tensor:
        """Squared scores that each dimension makes alone, `(E,)`."""
        q, k = self.moments(centred)
        energy: Tensor = q.diagonal() * k.diagonal()
        return energy

    def basis(self, kept: int, centred: bool) -> tuple[Tensor, Tensor, float]:
        """The best `kept` dimensions: of the queries, of the keys, and the share that is lost.

        Returns:
            `(E, R)` and `(E, R)`: new dimensions as combinations of the old ones, so that the
            product of new queries and keys is the nearest of that rank to the scores.
        """
        q, k = (_factor(moment) for moment in self.moments(centred))
        u, values, vh = torch.linalg.svd(q.mT @ k)
        root = values[:kept].sqrt()
        query_ER = torch.linalg.solve_triangular(q.mT, u[:, :kept], upper=True) * root
        key_ER = torch.linalg.solve_triangular(k.mT, vh.mT[:, :kept], upper=True) * root
        lost = values[kept:].square().sum() / values.square().sum().clamp_min(TINY)
        return query_ER, key_ER, float(lost)


def _factor(moment: Tensor) -> Tensor:
    """Lower Cholesky factor, the diagonal raised until there is one."""
    mean = moment.diagonal().mean().clamp_min(TINY)
    eye = torch.eye(len(moment), dtype=moment.dtype, device=moment.device)
    share = RIDGE
    factor: Tensor
    factor, info = torch.linalg.cholesky_ex(moment + share * mean * eye)
    while bool(info):
        share *= 100
        factor, info = torch.linalg.cholesky_ex(moment + share * mean * eye)
    return factor


def rebased(
    width: int, kept: Iterable[int], blocks: Iterable[tuple[Sequence[int], Tensor]]
) -> Tensor:
    """The outputs of a cut layer as combinations of the original's, `(width, kept)`.

    Args:
        width: Outputs of the original layer.
        kept: Columns that stay.
        blocks: Per head its columns, and the new basis `(E, R)` whose dimensions take the places of
            the head's columns that stay.
    """
    stays = list(kept)
    place = {column: number for number, column in enumerate(stays)}
    matrix = torch.zeros(width, len(stays), dtype=torch.float64)
    matrix[stays, range(len(stays))] = 1.0
    for columns, basis_ER in blocks:
        mine = [place[c] for c in columns if c in place]
        matrix[:, mine] = 0.0
        matrix[torch.tensor(list(columns))[:, None], torch.tensor(mine)] = basis_ER.cpu()
    return matrix
