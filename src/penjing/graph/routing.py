"""Routing: integers that number the positions of a dimension, and the ops that look them up.

`topk` answers with positions: which experts a token goes to. When positions are cut, those that
stay are numbered anew, and whatever looks them up must have lost the same ones. So an integer
tensor may *number* a dimension: the ops that choose (`topk`, `argmax`) say which, copies and data
movement carry it on, and those that look up (`index`, `gather`, `scatter`, `one_hot`) make the
dimension that they look into go together with it. Arithmetic on such numbers locks the dimension,
since its results would be others after a cut.

To mask a unit that is chosen among others is to leave it out of the choice: its score is minus
infinity, so that nothing is ever routed to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from torch import fx

from penjing.graph.axes import Atoms, Dim, fixed, join
from penjing.graph.call import is_tensor, op_name, output_shapes
from penjing.graph.rules import (
    EXPANDERS,
    Labels,
    Rule,
    Site,
    along,
    broadcast,
    locked,
    pointwise,
)

CARRIERS = frozenset(
    (
        *("_to_copy", "to", "clone", "contiguous", "detach", "alias", "lift_fresh_copy"),
        *("sort", "index", "index_select", "gather"),
    )
)
"""Ops that give the values they take; those that stay keep their order, so they sort alike."""

SHAPED_LIKE = frozenset(
    ("zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like")
)
"""Ops that read a tensor's shape and not its values."""


class Numbers:
    """Which integers of a network number positions that may still be cut.

    Args:
        atoms: The algebra.
        carries: Whether a call only moves the values of one of its arguments.
    """

    def __init__(self, atoms: Atoms, carries: Callable[[Site, fx.Node], bool]) -> None:
        self._atoms = atoms
        self._carries = carries
        self._of: dict[str, tuple[Dim | None, ...]] = {}

    def of(self, node: fx.Node, output: int = 0) -> Dim | None:
        """The dimension that a node's values number; None when they number none, or a locked one.

        Args:
            node: Any node of the graph.
            output: Which of its outputs.
        """
        found = self._of.get(node.name, ())
        dim = found[output] if output < len(found) else None
        return dim if dim is not None and self._atoms.is_live(dim) else None

    def pick(self, node: fx.Node, source: fx.Node, output: int) -> None:
        """Let `node` be one output of `source`."""
        self._of[node.name] = (self.of(source, output),)

    def visit(self, site: Site) -> None:
        """Find what the outputs of a call number; lock what it computes with.

        Args:
            site: The call; the labels of its outputs are known.
        """
        name = site.call.name
        if name in CHOOSERS:
            self._of[site.call.node.name] = _chosen(site)
            return
        if not self._of:
            return
        read = {node: dim for node in site.call.tensors if (dim := self.of(node)) is not None}
        for node, dim in read.items():
            if name in LOOKUPS and node in _indices(site):
                continue
            if name in CARRIERS or self._carries(site, node):
                self._of[site.call.node.name] = (dim, *(None for _ in site.shapes[1:]))
            elif name not in SHAPED_LIKE:
                site.lock([dim], "computes with the numbers of units")


def _chosen(site: Site) -> tuple[Dim | None, ...]:
    """What the outputs of a choice number: the last of them the dimension it runs over."""
    if site.call.has("dim") and (axes := site.axes()) and len(axes) == 1:
        return (*(None for _ in site.shapes[1:]), site.must("self")[axes[0]])
    return tuple(None for _ in site.shapes)


def _indices(site: Site) -> list[fx.Node]:
    """The arguments of a look-up that say where."""
    given = site.call.arg(INDEX.get(site.call.name, "index"))
    return list(given) if isinstance(given, (list, tuple)) else [given]


# ---------------------------------------------------------------- ops that choose


def choice(site: Site) -> list[Labels]:
    """The best few of one dimension: fewer may be left to choose from, but never too few."""
    if site.call.has("other"):  # the larger of two tensors
        return pointwise(site)
    axes = site.axes()
    if len(axes) != 1 or not site.call.has("dim"):
        return along(site)
    x, axis = site.must("self"), axes[0]
    count = site.call.arg("k", 1) if site.call.has("k") else 1
    site.atoms.mark_normalised(x[axis])
    if isinstance(count, int):
        site.atoms.demand(x[axis], count, site.reason(f"chooses {count}"))
    else:
        site.lock([x[axis]], "chooses a number of them that is not constant")
    outputs: list[Labels] = []
    for shape in site.shapes:
        keeps = len(shape) == len(x)
        dims = [fixed(shape[j]) if j == axis else d for j, d in enumerate(x) if keeps or j != axis]
        outputs.append(dims)
    return outputs


def softmax(site: Site) -> list[Labels]:
    """Shares of one whole: of what is kept."""
    x = site.must("self")
    for axis in site.axes():
        site.atoms.mark_normalised(x[axis])
    return [x for _ in site.shapes]


def running_sum(site: Site) -> list[Labels]:
    """A sum of all that came before: what is masked adds nothing."""
    return [site.must("self") for _ in site.shapes]


# ---------------------------------------------------------------- ops that look up


def index(site: Site) -> list[Labels]:
    """`x[i, :, j]` with integers that depend on the data: other dimensions follow."""
    x, indices = site.must("self"), site.call.arg("indices")
    given = [axis for axis, node in enumerate(indices) if is_tensor(node)]
    _look_up(site, [(x[axis], indices[axis]) for axis in given])
    places = [site.labels_of(indices[axis]) for axis in given]
    rank = max(len(labels) for labels in places)
    first = given[0] if given[-1] - given[0] == len(given) - 1 else 0
    shape = site.shapes[0][first : first + rank]
    looked = broadcast(site, places, shape, "indices")
    rest = [dim for axis, dim in enumerate(x) if axis not in given]
    return [[*rest[:first], *looked, *rest[first:]]]


def index_put(site: Site) -> list[Labels]:
    """`x[i] = values` with integers that depend on the data."""
    x, indices = site.must("self"), site.call.arg("indices")
    given = [axis for axis, node in enumerate(indices) if is_tensor(node)]
    if given != list(range(len(given))):
        return locked(site, "writes by data behind its first dimensions")
    _look_up(site, [(x[axis], indices[axis]) for axis in given])
    rest, values = x[len(given) :], site.must("values")
    for dim, other in zip(reversed(rest), reversed(values), strict=False):
        if len(dim) == len(other):
            site.unify(dim, other, "values")
    return [x]


def index_select(site: Site) -> list[Labels]:
    """Whole slices of one dimension."""
    x, axis = site.must("self"), site.axes()[0]
    node = site.call.arg("index")
    _look_up(site, [(x[axis], node)])
    places = site.labels_of(node) or [fixed(1)]
    return [[places[0] if j == axis else dim for j, dim in enumerate(x)]]


def index_add(site: Site) -> list[Labels]:
    """Slices added to, or written over, those of one dimension."""
    x, axis = site.must("self"), site.axes()[0]
    _look_up(site, [(x[axis], site.call.arg("index"))])
    for j, (dim, other) in enumerate(zip(x, site.must("source"), strict=True)):
        if j != axis:
            site.unify(dim, other, "source")
    return [x]


def gather(site: Site) -> list[Labels]:
    """One position of a dimension for each place of the index."""
    x, axis, node = site.must("self"), site.axes()[0], site.call.arg("index")
    places = site.labels_of(node)
    if not x or not places:
        return locked(site, "gathers by data")
    _look_up(site, [(x[axis], node)])
    _meet(site, x, places, axis)
    return [list(places)]


def scatter(site: Site) -> list[Labels]:
    """The reverse of `gather`, into a copy of the first argument."""
    x, axis, node = site.must("self"), site.axes()[0], site.call.arg("index")
    places = site.labels_of(node)
    if not x or not places:
        return locked(site, "scatters by data")
    _look_up(site, [(x[axis], node)])
    _meet(site, x, places, axis)
    source = site.labels("src") if site.call.has("src") else None
    if source is not None:
        _meet(site, source, places, None)
    return [x]


def masked_scatter(site: Site) -> list[Labels]:
    """Rows written over those that a mask picks, one after the other: their columns follow."""
    x, mask, source = site.must("self"), site.must("mask"), site.must("source")
    columns = x[-1:] if len(x[-1]) == len(source[-1]) and _repeats(site.call.arg("mask")) else []
    site.lock(x[: len(x) - len(columns)], "is filled by data")
    site.lock(source[: len(source) - len(columns)], "fills by data")
    for dim in columns:
        for other in (source[-1], mask[-1]):
            if len(other) == len(dim):
                site.unify(dim, other, "columns")
    return [x]


def _repeats(mask: fx.Node) -> bool:
    """Whether a mask is the same along its last dimension."""
    while op_name(mask) in CARRIERS and isinstance(mask.args[0], fx.Node):
        mask = mask.args[0]
    source = mask.args[0] if op_name(mask) in EXPANDERS else mask
    shape = output_shapes(source)[0] if isinstance(source, fx.Node) else None
    return shape is not None and shape[-1:] == (1,)


def one_hot(site: Site) -> list[Labels]:
    """A row of zeros with a one at the number; classes beyond the dimension never change."""
    node, classes = site.call.arg("self"), site.shapes[0][-1]
    dim = site.numbers(node)
    if dim is None:
        return [[*site.labels_of(node), fixed(classes)]]
    if classes < len(dim):
        return locked(site, "has fewer classes than there are units")
    return [[*site.labels_of(node), join([dim, fixed(classes - len(dim))])]]


def embedding(site: Site) -> list[Labels]:
    """Rows are chosen by the numbers; columns stay."""
    weight, node = site.must("weight"), site.call.arg("indices")
    _look_up(site, [(weight[0], node)])
    return [[*site.labels_of(node), weight[1]]]


def _look_up(site: Site, pairs: Sequence[tuple[Dim, fx.Node]]) -> None:
    """Bind each dimension to what its index numbers; any other index is just data."""
    for dim, node in pairs:
        numbered = site.numbers(node)
        if numbered is not None and len(numbered) == len(dim):
            site.unify(numbered, dim, "numbers")
        else:
            site.lock([dim, *([] if numbered is None else [numbered])], "rows are chosen by data")


def _meet(site: Site, left: Labels, right: Labels, apart: int | None) -> None:
    """Dimensions of equal size go together, all but one; where sizes differ nothing is cut."""
    for j, (dim, other) in enumerate(zip(left, right, strict=True)):
        if j == apart:
            continue
        if len(dim) == len(other):
            site.unify(dim, other)
        else:
            site.lock([dim, other], "reads a part of it")


def _named(rule: Rule, names: str) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), rule)


CHOOSERS: Mapping[str, Rule] = MappingProxyType(_named(choice, "topk argmax argmin max min"))
"""Ops that answer with positions of one dimension."""

LOOKUPS: Mapping[str, Rule] = MappingProxyType(
    {
        **_named(index, "index"),
        **_named(index_put, "index_put"),
        **_named(index_select, "index_select"),
        **_named(index_add, "index_add index_copy"),
        **_named(gather, "gather"),
        **_named(scatter, "scatter scatter_add scatter_reduce"),
        **_named(masked_scatter, "masked_scatter"),
        **_named(one_hot, "one_hot"),
        **_named(embedding, "embedding"),
    }
)
"""Ops that read or write at positions which the data chooses."""

INDEX: Mapping[str, str] = MappingProxyType(
    {"embedding": "indices", "one_hot": "self", "index": "indices", "index_put": "indices"}
)
"""What the argument with the positions is called, where not "index"."""

ROUTING: Mapping[str, Rule] = MappingProxyType(
    {
        **CHOOSERS,
        **_named(softmax, "softmax _softmax log_softmax _log_softmax"),
        **_named(running_sum, "cumsum"),
        **_named(embedding, "embedding"),
    }
)
"""Ops over the units that are chosen among."""
