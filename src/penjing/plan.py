"""Groups, locks and plans: the decision what to cut, as names and numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from penjing.decode import decode
from penjing.errors import PlanError

Scope = Literal["inner", "residual"]

Kind = Literal[
    "channels",
    "neurons",
    "heads",
    "head dims",
    "embedding",
    "hidden units",
    "experts",
    "blocks",
    "weights",
    "bits",
]
"""What the units of a group are."""

BLOCKS = "blocks"
"""Name of the group whose units are whole residual branches, and their kind."""

LAYERS = "layers"
"""Name of the group whose units are whole layers, all branches of each together."""

WHOLE = (BLOCKS, LAYERS)
"""Names of groups of the kind "blocks"; a plan has one of them at most."""

WEIGHTS = "weights"
"""Kind of a group whose units are equal parts of one layer's weights, which become zero."""

BITS = "bits"
"""Kind of a group whose units are the bits of one layer's weights."""

PLAN_VERSION = 3
MOST_BITS = 8  # of a weight in integers
STRIP = 60  # characters of a strip
SIGNS = {
    frozenset[bool](): "·",
    frozenset({True}): "●",
    frozenset({False}): "○",
    frozenset({True, False}): "◉",
}
LEGEND = "● cuts a weight's first dimension, ○ another one, ◉ both"


@dataclass(frozen=True, slots=True)
class Slice:
    """What one unit takes along with it in one dimension of one stored tensor.

    Args:
        tensor: Qualified name of a parameter or buffer.
        dim: Dimension that is cut.
        index: Per unit the positions it removes (all of equal number); None means that unit `u` is
            position `u`.
    """

    tensor: str
    dim: int
    index: tuple[tuple[int, ...], ...] | None = None

    @classmethod
    def of(cls, tensor: str, dim: int, index: tuple[tuple[int, ...], ...]) -> Self:
        """A slice by the positions of each unit.

        Example:
            >>> Slice.of("weight", 0, ((0,), (1,)))
            Slice(tensor='weight', dim=0, index=None)
        """
        plain = index == tuple((unit,) for unit in range(len(index)))
        return cls(tensor, dim, None if plain else index)

    def positions(self, unit: int) -> tuple[int, ...]:
        """Positions along `dim` that go when `unit` goes."""
        return (unit,) if self.index is None else self.index[unit]


@dataclass(frozen=True, slots=True)
class Group:
    """Coupled units: when one goes, every slice of it goes.

    Args:
        name: Unique and stable for one network: the tensor that makes the units, with `#factor`
            where that is not all.
        units: Number of units, at least 2.
        slices: Every stored tensor and dimension that the units own.
        scope: "inner" for units inside one branch, "residual" for units on a stream that several
            branches add to.
        exact: False where a normalisation over the units makes cutting differ from zero-masking
            (statistics then run over the units that are kept).
        kind: What the units are: channels of convolutions, neurons, attention heads, dimensions of
            every head, the width of an embedding, hidden units of a recurrent layer, experts that
            data is routed to, whole residual branches, or parts of a layer's weights.
        least: Fewest units that must stay, in 1..units.
        least_why: The op that needs so many, with its source line; empty where one is enough.
    """

    name: str
    units: int
    slices: tuple[Slice, ...]
    scope: Scope = "inner"
    exact: bool = True
    kind: Kind = "channels"
    least: int = 1
    least_why: str = ""

    @property
    def places(self) -> frozenset[Slice]:
        """What the units own, in no order: equal for the same units of the same network."""
        return frozenset(self.slices)


@dataclass(frozen=True, slots=True)
class Lock:
    """Positions that cannot be cut, and why.

    Args:
        tensor: Qualified name of the tensor whose positions are locked.
        dim: Dimension of the lock.
        positions: How many positions of that dimension are locked.
        reason: The op that locked them and why.
        where: Source line of that op, empty when unknown.
        params: Elements of the tensor that no group removes because of it.
        macs: Multiply-accumulates of those elements at batch one.
    """

    tensor: str
    dim: int
    positions: int
    reason: str
    where: str = ""
    params: int = 0
    macs: int = 0


@dataclass(frozen=True, slots=True)
class Reach:
    """How much of one weight the groups remove when all of their units go.

    Args:
        tensor: Qualified name of a parameter of at least two dimensions.
        params: Its elements.
        reached: Those that some group removes.
        macs: Multiply-accumulates that read it, at batch one.
    """

    tensor: str
    params: int
    reached: int
    macs: int = 0


@dataclass(frozen=True, slots=True)
class Groups:
    """What can be cut and what cannot. Iterates over the groups; `str()` is a table.

    Args:
        groups: Prunable groups in the order of the network.
        locked: What is left alone, with reasons.
        fingerprint: Of the tensor names and shapes the groups were found in.
        params: Number of parameters of the network.
        reachable: Share of the parameters that at least one group cuts, in [0, 1].
        layers: Every weight in the order of the network, with what is reached of it.
        macs: Multiply-accumulates of the network at batch one; 0 when not counted.
        reachable_macs: Share of them that at least one group removes, in [0, 1].
    """

    groups: tuple[Group, ...]
    locked: tuple[Lock, ...]
    fingerprint: str
    params: int
    reachable: float
    layers: tuple[Reach, ...] = ()
    macs: int = 0
    reachable_macs: float = 0.0

    def __iter__(self) -> Iterator[Group]:
        return iter(self.groups)

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, name: str) -> Group:
        """The group called `name`.

        Raises:
            PlanError: There is no such group; the known ones are listed.
        """
        for group in self.groups:
            if group.name == name:
                return group
        known = ", ".join(repr(g.name) for g in self.groups[:10])
        raise PlanError(f"no group is called {name!r}; the first ones are {known}")

    def __str__(self) -> str:
        drawn = {g.name: self.strip(g) for g in self.groups} if self.layers else {}
        rows: list[tuple[str, str, str, str, str]] = [
            (g.name, str(g.units), g.kind, g.scope, drawn.get(g.name) or f"{len(g.slices)} slices")
            for g in self.groups
        ]
        rows += [
            (
                k.tensor,
                f"dim {k.dim}",
                "",
                "locked",
                f"{k.reason} {k.where}{self._price(k)}".strip(),
            )
            for k in self.locked
        ]
        last = "layers it cuts / reason" if drawn else "cuts / reason"
        header = ("group", "units", "kind", "scope", last)
        widths = [max(len(r[i]) for r in (header, *rows)) for i in range(4)]
        lines = [
            "  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[4]]).rstrip()
            for row in (header, *rows)
        ]
        lines.insert(1, "-" * max(len(line) for line in lines))
        return "\n".join([*lines, *([LEGEND] if drawn else []), self.said])

    @property
    def said(self) -> str:
        """What is reached, in one line."""
        text = f"{len(self.groups)} groups reach {self.reachable:.0%} of {self.params:,} parameters"
        if self.macs:
            text += f" and {self.reachable_macs:.0%} of {self.macs:,} multiply-accumulates"
        return text

    def _price(self, lock: Lock) -> str:
        if not lock.params:
            return ""
        macs = f" and {lock.macs / self.macs:.1%} of the MACs" if self.macs and lock.macs else ""
        return f" (keeps {lock.params / max(1, self.params):.1%} of the parameters{macs})"

    def strip(self, group: Group, width: int = STRIP) -> str:
        """The layers that a group cuts, one character for each, in the order of the network.

        Args:
            group: One of the groups.
            width: Most characters; networks of more layers share them.

        Returns:
            A full circle where the group cuts a weight's first dimension, a hollow one where it
            cuts another, both in one where it does both, lines between.
        """
        place = {layer.tensor: number for number, layer in enumerate(self.layers)}
        room = min(width, len(place))
        dims: list[set[bool]] = [set() for _ in range(room)]
        for part in group.slices:
            if part.tensor in place:
                dims[place[part.tensor] * room // len(place)].add(part.dim == 0)
        signs = "".join(SIGNS[frozenset(seen)] for seen in dims)
        first, last = len(signs) - len(signs.lstrip("·")), len(signs.rstrip("·"))
        return signs[:first] + signs[first:last].replace("·", "─") + signs[last:]


def fingerprint(shapes: Mapping[str, Sequence[int]]) -> str:
    """Short hash of tensor names and shapes.

    Example:
        >>> fingerprint({"w": (2, 3)}) == fingerprint({"w": [2, 3]})
        True
    """
    text = json.dumps({name: list(shape) for name, shape in sorted(shapes.items())})
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Plan:
    """Units to drop, by group name; a group that is not named is left alone.

    Args:
        drop: Per group the units to remove, ascending.
        units: Units of every group of the network the plan was made for: refuses another network,
            or a second use.
        fingerprint: Of the tensor names and shapes the plan was made for.
        sparsity: Share of zeros of single weights by name, in (0, 1); which ones become zero is
            chosen on the network that is left.
        pattern: Shape of those zeros.
        bits: Bits of single weights by name, for `quantize(weight_bits_dict=plan.bits)`.

    Example:
        >>> plan = Plan({"conv": (0, 2)}, {"conv": 4}, "00")
        >>> Plan.from_json(plan.to_json()) == plan
        True
    """

    drop: dict[str, tuple[int, ...]]
    units: dict[str, int]
    fingerprint: str
    sparsity: dict[str, float] = field(default_factory=dict)
    pattern: str = "element"
    bits: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, bits in self.bits.items():
            if type(bits) is not int or not 1 <= bits <= MOST_BITS:
                raise PlanError(
                    f"the plan gives {name!r} {bits!r} bits; they are a number from 1 to "
                    f"{MOST_BITS}"
                )
        for name, share in self.sparsity.items():
            if not 0 < share < 1:
                raise PlanError(
                    f"the plan gives {name!r} a sparsity of {share}; it is a share of weights "
                    "above 0 and below 1"
                )
        for name, units in self.drop.items():
            if name not in self.units:
                raise PlanError(f"the plan drops units of {name!r}, which is not among its groups")
            count = self.units[name]
            outside = [u for u in units if not 0 <= u < count]
            if outside:
                raise PlanError(
                    f"group {name!r} has {count} units (0..{count - 1}); the plan drops {outside}"
                )
            if list(units) != sorted(set(units)):
                raise PlanError(
                    f"group {name!r}: units to drop must ascend without repeats, got "
                    f"{list(units)[:8]}"
                )
            if len(units) == count:
                raise PlanError(
                    f"group {name!r}: the plan drops all {count} units; at least one must stay"
                )

    def check(self, groups: Groups) -> None:
        """Refuse a network that the plan was not made for.

        Raises:
            PlanError: Names, unit counts or tensor shapes differ.
        """
        known = {group.name: group for group in groups}
        for name, count in self.units.items():
            group = known.get(name)
            if group is None:
                raise PlanError(
                    f"the plan names group {name!r}, which this network does not have; was it made "
                    "for another?"
                )
            if group.units != count:
                raise PlanError(
                    f"group {name!r} has {group.units} units and the plan was made for {count}. "
                    "Was the plan made for another model, or applied twice?"
                )
            kept = len(self.kept(name))
            if kept < group.least:
                raise PlanError(
                    f"group {name!r} has {count} units and the plan keeps {kept}, but "
                    f"{group.least_why} needs {group.least}; drop {count - group.least} at most"
                )
        if self.fingerprint != groups.fingerprint:
            raise PlanError(
                f"the plan was made for tensors with fingerprint {self.fingerprint}, this network "
                "has "
                f"{groups.fingerprint}: names or shapes differ. Was the plan made for another "
                "model, or applied twice?"
            )

    @property
    def is_empty(self) -> bool:
        """Whether nothing is cut and nothing becomes zero."""
        return not self.drop and not self.sparsity

    def kept(self, name: str) -> tuple[int, ...]:
        """Units of group `name` that stay."""
        gone = set(self.drop.get(name, ()))
        return tuple(u for u in range(self.units[name]) if u not in gone)

    def to_json(self) -> str:
        """The plan as JSON text."""
        content: dict[str, object] = {
            "version": PLAN_VERSION if self.bits else 2 if self.sparsity else 1,
            "fingerprint": self.fingerprint,
            "units": self.units,
            "drop": self.drop,
        }
        if self.sparsity:
            content |= {"sparsity": self.sparsity, "pattern": self.pattern}
        if self.bits:
            content["bits"] = self.bits
        return json.dumps(content, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote.

        Raises:
            PlanError: Not JSON, fields missing or of a wrong type, or written by a newer version.
        """
        try:
            content = decode(dict[str, Any], json.loads(text), "plan")
            version = decode(int, content["version"], "plan.version")
            if version > PLAN_VERSION:
                raise PlanError(
                    f"the plan has version {version}, this penjing reads up to {PLAN_VERSION}; "
                    "upgrade penjing"
                )
            return cls(
                decode(dict[str, tuple[int, ...]], content["drop"], "plan.drop"),
                decode(dict[str, int], content["units"], "plan.units"),
                decode(str, content["fingerprint"], "plan.fingerprint"),
                decode(dict[str, float], content.get("sparsity", {}), "plan.sparsity"),
                decode(str, content.get("pattern", "element"), "plan.pattern"),
                decode(dict[str, int], content.get("bits", {}), "plan.bits"),
            )
        except (TypeError, ValueError, KeyError) as error:
            raise PlanError(f"this is not a plan: {type(error).__name__}: {error}") from error
