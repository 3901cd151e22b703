"""Products of rows with a stack of matrices, each row with the matrix of its expert.

A mixture keeps its experts in one tensor. Rows either look up the matrices of the experts that
they are sent to (`bmm(weight[chosen], x)`), or the experts are a dimension of the rows
(`einsum("eoi,bei->beo", weight, x)`). Each expert is a linear layer of its own, on its own rows.

Suffixes: R = rows, E = experts, U = inputs of an expert, V = its outputs, D = inputs of an expert
of the original.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, fx

from penjing.graph.call import Call, op_name, output_shapes
from penjing.graph.capture import Program
from penjing.graph.routing import CARRIERS
from penjing.graph.rules import einsum_letters
from penjing.statistics.grams import Gram

STACK = 3  # dimensions of a tensor of experts: (experts, outputs, inputs) in some order
BATCH = "abcdefgh"  # letters of the dimensions that `matmul` broadcasts
LOOKED_UP = {"index": "indices", "index_select": "index", "embedding": "indices"}
"""Ops that look matrices up, and what their argument with the numbers is called."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Routed:
    """One product with a stack of matrices.

    Args:
        node: Name of its node.
        source: Name of the node with the rows.
        weight: Qualified name of the stack.
        choice: Name of the node that says which expert each row goes to; None where the experts
            are a dimension of the rows.
        places: Letters of the dimensions of `choice`, or of the experts.
        reads: Letters of the dimensions of the rows.
        gives: Letters of the dimensions of the result.
        inner: Letter of the inputs of an expert.
        outer: Letter of its outputs.
        order: Dimensions of the stack as (experts, outputs, inputs).
        taken: Nodes between the stack and the product, the nearest to the product first.
    """

    node: str
    source: str
    weight: str
    choice: str | None
    places: str
    reads: str
    gives: str
    inner: str
    outer: str
    order: tuple[int, int, int]
    taken: tuple[str, ...] = ()

    def matrices(self, weight: Tensor) -> Tensor:
        """The stack as `(E, V, U)`."""
        return weight.permute(self.order)

    def stack(self, matrices_EVU: Tensor) -> Tensor:
        """The stack whose `matrices` these are."""
        back = sorted(range(STACK), key=lambda dim: self.order[dim])
        return matrices_EVU.permute(back).contiguous()

    @property
    def rows(self) -> str:
        """Letters of the dimensions that say which row."""
        return self.gives.replace(self.outer, "")

    def inputs(self, x: Tensor, sizes: dict[str, int]) -> Tensor:
        """What each row reads, `(R, U)`."""
        return _spread(x, self.reads, self.rows + self.inner, sizes).flatten(0, -2)

    def owners(self, chosen: Tensor | None, experts: int, sizes: dict[str, int]) -> Tensor:
        """The expert of each row, `(R,)`."""
        given = torch.arange(experts) if chosen is None else chosen
        return _spread(given, self.places, self.rows, sizes).flatten()

    def sizes(self, x: Tensor, chosen: Tensor | None, experts: int) -> dict[str, int]:
        """Sizes of the rows' dimensions, by letter."""
        places = (experts,) if chosen is None else chosen.shape
        found: dict[str, int] = {}
        for letters, shape in ((self.reads, x.shape), (self.places, places)):
            for letter, size in zip(letters, shape, strict=True):
                found[letter] = max(size, found.get(letter, 1))
        return found


def _spread(value: Tensor, letters: str, wanted: str, sizes: dict[str, int]) -> Tensor:
    """A tensor with its dimensions as wanted, repeated along those that it lacks."""
    there = [c for c in wanted if c in letters]
    value = value.permute([letters.index(c) for c in there])
    value = value[tuple(slice(None) if c in letters else None for c in wanted)]
    return value.expand([sizes[c] for c in wanted])


# ---------------------------------------------------------------- where they are


def routed(program: Program) -> tuple[dict[str, Routed], dict[str, str]]:
    """Every product of rows with stored stacks of matrices.

    Args:
        program: Captured network, or its cut form.

    Returns:
        Products by node name in the order of the graph; and, for other products with a stack that
        is stored, the reason why they are none, by node name.
    """
    found: dict[str, Routed] = {}
    refused: dict[str, str] = {}
    for node in program.graph.nodes:
        stacks = list(_stacks(program, node))
        if not stacks:
            continue
        made = _routed(node, stacks[0])
        if made is None:
            refused[node.name] = (
                f"{stacks[0].weight} meets its rows otherwise than one matrix of the stack each"
            )
        else:
            found[node.name] = made
    return found, refused


@dataclass(frozen=True, slots=True)
class _Stack:
    """An operand that comes from a stored stack.

    Args:
        operand: Which operand of the product.
        weight: Qualified name of the stack.
        choice: The node with the numbers, if matrices are looked up.
        dims: Per dimension of the operand the one of the stack; -1 - n for dimension n of `choice`.
        taken: Nodes on the way.
    """

    operand: int
    weight: str
    choice: fx.Node | None
    dims: tuple[int, ...]
    taken: tuple[str, ...]


def _stacks(program: Program, node: fx.Node) -> Iterator[_Stack]:
    """Operands of a product that come from a stack of matrices."""
    if op_name(node) not in {"bmm", "matmul", "einsum"}:
        return
    for number, operand in enumerate(_operands(node)):
        stack = _traced(program, operand, number)
        if stack is not None:
            yield stack


def _operands(node: fx.Node) -> list[fx.Node]:
    if op_name(node) == "einsum":
        return list(Call(node).arg("tensors"))
    return [n for n in node.args if isinstance(n, fx.Node)]


def _traced(program: Program, node: fx.Node, operand: int) -> _Stack | None:
    """Look back from an operand, through transposes and one look-up, to what is stored."""
    dims = list(range(_rank(node)))  # those below 0 are of the choice
    choice: fx.Node | None = None
    taken: list[str] = []
    while node.op == "call_function":
        call = Call(node)
        found = _choice(call) if choice is None and call.name in LOOKED_UP else None
        order = _order(call, _rank(node))
        if found is not None:
            choice, lead = found, _rank(found)
            dims = [-1 - dim if dim < lead else dim - lead + 1 for dim in dims]
        elif order is not None:
            dims = [order[dim] if dim >= 0 else dim for dim in dims]
        else:
            return None
        taken.append(node.name)
        node = call.tensors[0]
    weight = program.stored.get(node.name, "")
    if len(node.users) != 1 or not weight or program.tensors[weight].dim() != STACK:
        return None
    return _Stack(operand, weight, choice, tuple(dims), tuple(taken))


def _rank(node: fx.Node) -> int:
    return len(output_shapes(node)[0] or ())


def _choice(call: Call) -> fx.Node | None:
    """The numbers by which a look-up finds matrices along the first dimension of a stack."""
    if call.name == "index_select" and call.arg("dim") != 0:
        return None
    given = call.arg(LOOKED_UP[call.name])
    given = given if isinstance(given, (list, tuple)) else [given]
    whole = len(given) == 1 and isinstance(given[0], fx.Node)
    integers = whole and not given[0].meta["val"].dtype.is_floating_point
    return given[0] if integers and given[0].meta["val"].dtype != torch.bool else None


def _order(call: Call, rank: int) -> list[int] | None:
    """The dimensions of the argument in the order of the result; None where values change."""
    order = list(range(rank))
    if call.name in {"transpose", "swapaxes"}:
        a, b = (call.arg(name) % rank for name in ("dim0", "dim1"))
        order[a], order[b] = order[b], order[a]
        return order
    if call.name == "permute":
        return [dim % rank for dim in call.arg("dims")]
    if call.name in {"mT", "matrix_H"}:
        return [*order[:-2], order[-1], order[-2]]
    return order if call.name in CARRIERS - set(LOOKED_UP) - {"sort", "gather"} else None


def _letters(node: fx.Node) -> tuple[list[str], str] | None:
    """Letters of every operand and of the result of a product."""
    ranks = [_rank(n) for n in _operands(node)]
    if op_name(node) == "einsum":
        return einsum_letters(Call(node).arg("equation"), ranks)
    if min(ranks) < len("ij"):
        return None
    left, right = (BATCH[len(BATCH) - rank + 2 :] if rank > len("ij") else "" for rank in ranks)
    return [f"{left}ij", f"{right}jk"], f"{max(left, right, key=len)}ik"


def _routed(node: fx.Node, stack: _Stack) -> Routed | None:
    """A product in letters, where each row meets the matrix of one expert."""
    nodes, spelt = _operands(node), _letters(node)
    if len(nodes) != len("ij") or spelt is None:
        return None
    (terms, gives), other = spelt, 1 - stack.operand
    mine, reads = terms[stack.operand], terms[other]
    letter = {dim: c for dim, c in zip(stack.dims, mine, strict=True) if dim >= 0}
    chosen = {dim: c for dim, c in zip(stack.dims, mine, strict=True) if dim < 0}
    places = "".join(chosen[dim] for dim in sorted(chosen, reverse=True))
    inner = [c for c in letter.values() if c in reads and c not in gives]
    outer = [c for c in letter.values() if c in gives and c not in reads]
    if stack.choice is None:  # the third dimension is the experts', or the first where all are
        places = "".join(c for c in letter.values() if c in gives and c in reads)
        places = places or next(c for dim, c in letter.items() if dim == 0)
        outer = [c for c in outer if c != places]
    if (
        [len(inner), len(outer)] != [1, 1]
        or (stack.choice is None and len(places) != 1)
        or not set(places + reads) <= {*gives, *inner}
        or any(len(set(term)) < len(term) for term in (mine, reads, gives))
    ):
        return None
    at = {c: dim for dim, c in letter.items()}
    dims = (at[outer[0]], at[inner[0]])
    return Routed(
        node=node.name,
        source=nodes[other].name,
        weight=stack.weight,
        choice=None if stack.choice is None else stack.choice.name,
        places=places,
        reads=reads,
        gives=gives,
        inner=inner[0],
        outer=outer[0],
        order=(next(iter({0, 1, 2} - set(dims))), *dims),
        taken=stack.taken,
    )


# ---------------------------------------------------------------- what they read


@dataclass(slots=True)
class Moments:
    """Second moments, per expert, of what reaches it and of what reaches it in the original.

    What an expert should give is linear in the latter, so these are all that least squares needs,
    for every expert and for any of them together. All in float64.

    Args:
        xx: Products of inputs `(E, U, U)`.
        xd: Products of inputs and the original's inputs `(E, U, D)`.
        dd: Products of the original's inputs `(E, D, D)`.
        rows: Rows of each expert `(E,)`.
    """

    xx: Tensor
    xd: Tensor
    dd: Tensor
    rows: Tensor

    @classmethod
    def zeros(
        cls, experts: int, inputs: int, originally: int, device: torch.device | str = "cpu"
    ) -> Self:
        """Empty sums."""

        def make(*shape: int) -> Tensor:
            return torch.zeros(experts, *shape, dtype=torch.float64, device=device)

        return cls(
            make(inputs, inputs), make(inputs, originally), make(originally, originally), make()
        )

    @staticmethod
    def bytes(experts: int, inputs: int, originally: int) -> int:
        """Memory that the sums take."""
        return 8 * experts * (inputs**2 + inputs * originally + originally**2)

    def add(self, x_RU: Tensor, d_RD: Tensor, owner_R: Tensor) -> None:
        """Add rows in place.

        Args:
            x_RU: Inputs.
            d_RD: The original's inputs of the same rows, sent to the same experts.
            owner_R: The expert of each row.
        """
        order = owner_R.argsort()
        counts = torch.bincount(owner_R, minlength=len(self.rows))
        ends = counts.cumsum(0).tolist()
        for expert, (end, count) in enumerate(zip(ends, counts.tolist(), strict=True)):
            if count:
                mine = order[end - count : end]
                x, d = x_RU[mine].double(), d_RD[mine].double()
                self.xx[expert] += x.mT @ x
                self.xd[expert] += x.mT @ d
                self.dd[expert] += d.mT @ d
        self.rows += counts.to(self.rows)

    def shrunk(self, rows: float) -> Moments:
        """The sums with so many rows more for every expert, each the mean row of all experts."""
        share = rows / self.rows.sum().clamp_min(1)
        return Moments(
            self.xx + share * self.xx.sum(0),
            self.xd + share * self.xd.sum(0),
            self.dd + share * self.dd.sum(0),
            self.rows + rows,
        )

    def gram(self, original_EVD: Tensor) -> Gram:
        """Sums for the least squares that makes every expert answer as in the original.

        Args:
            original_EVD: Matrices of the original, for the experts and outputs that stay.

        Returns:
            One group for each expert, without an intercept.
        """
        w_EVD = original_EVD.double()
        xy_EUV = self.xd @ w_EVD.mT
        yy_EV = ((w_EVD @ self.dd) * w_EVD).sum(2)
        experts, inputs, outputs = xy_EUV.shape
        gram = Gram.zeros(experts, inputs, outputs, xy_EUV.device)
        return Gram(self.xx, gram.x, xy_EUV, gram.y, yy_EV, int(self.rows.sum()))
