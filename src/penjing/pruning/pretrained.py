"""The configuration of a cut network: new values where they describe it whole.

A network with `config` and `save_pretrained` is rebuilt from its configuration when it is read
again. After a cut the configuration is searched for numbers that give every tensor its new shape:
networks are built on the meta device, which allocates nothing, and a number is moved when that
brings the shapes nearer. Layers that lost all their tensors leave their list, and a number that
counts them is lowered. What is found counts only once a network built from it has loaded the
cut tensors and given the cut network's outputs.
"""

from __future__ import annotations

import copy
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from penjing.graph.attributes import differing, is_settings, replaced, write
from penjing.graph.capture import Program, quiet_eval
from penjing.graph.network import Cut
from penjing.pruning.depth import Shortened
from penjing.pruning.layers import Fewer, layer_of, restore
from penjing.pruning.result import TOLERANCES, compare_forms, folds_of, told
from penjing.pruning.scales import Folds
from penjing.pruning.verify import relative_difference

Path = tuple[str | int, ...]
Shapes = Mapping[str, tuple[int, ...]]
Build = Callable[[Any], nn.Module]

DEPTH = 3  # how far inside one another the parts of a configuration are looked at
MAX_BUILT = 120  # networks built on the meta device
MAX_SECONDS = 10.0  # of the whole search; it only decides whether a config is offered
MAX_PROVED = 6  # networks built whole
MAX_BYTES = 2**30  # of tensors; proving holds several copies of them
INSTEAD = "pj.save(model, folder) and pj.load(folder) keep it as it is"


def describe_config(model: nn.Module, made: nn.Module, cut: Cut, seed: int = 0) -> tuple[str, ...]:
    """Bring the configuration of a cut network up to date, in place, where it can describe the cut.

    Args:
        model: The original; only read.
        made: What the cut made of it, on the CPU; its `config` is replaced by a changed copy when
            that is proved to describe it, else left alone.
        cut: What went.
        seed: Of the random weights of the proof.

    Returns:
        What the reader of the report must know; nothing for a network without `save_pretrained`.
    """
    if not cut.plan.drop or not _is_pretrained(model):
        return ()
    if not _is_pretrained(made):
        return (f"the graph form has no save_pretrained; {INSTEAD}",)
    if sum(t.nbytes for t in made.state_dict().values()) > MAX_BYTES:
        return (
            "save_pretrained was not tried: the network is too large to be built beside itself, "
            f"so its config keeps the old sizes; {INSTEAD}",
        )
    folds = folds_of(made, cut, seed)
    fewer = Fewer.of(made, cut)
    before = fewer.apply(made)
    program = fewer.program(cut.program)
    goal = _Goal(made, program, seed, {fewer.name(n): f for n, f in folds.items()}, fewer)
    why = ""
    for config in fewer.configs(made.config):
        search = _Search(goal, config)
        with torch.random.fork_rng(devices=[]):
            found = search.run()
        why = why or search.why
        reason = "" if found is None else _adopt(goal, found)
        if found is not None and not reason:
            return (_said(type(made).__name__, search.config, found.values),)
        why = reason or why
    restore(before)
    why = _halved(made, cut) or why
    return (f"save_pretrained would write a config that does not fit: {why}; {INSTEAD}",)


def _halved(made: nn.Module, cut: Cut) -> str:
    """A layer that lost a branch and is not gone, in words: no configuration counts such layers."""
    left = cut.program.tensors
    for block in cut.blocks if isinstance(cut, Shortened) else ():
        layer = layer_of(made, block.owned)
        stay = [name for name in left if layer and name.startswith(f"{layer}.")]
        if stay:
            return (
                f"it counts whole layers, and {layer!r} lost the branch of {block.name!r} but "
                f"keeps {stay[0]!r}{f' and {len(stay) - 1} more' if len(stay) > 1 else ''}"
            )
    return ""


def _adopt(goal: _Goal, found: _Found) -> str:
    """Give the cut network a configuration, in place; why it runs no more with it, else empty."""
    made = goal.made
    before = _hang(made, found.fresh)
    reason = compare_forms(made, goal.program, goal.seed, goal.folds)
    if reason:
        for own, attribute, value in before:
            own[attribute] = value
    elif goal.fewer.kept:  # layers know their own number
        write(made, differing(made, found.fresh))
    return reason


def _said(name: str, config: Any, values: Mapping[Path, float]) -> str:
    old = dict(_numbers(config))
    changes = ", ".join(f"{_spelled(p)} is {v} (was {old[p]})" for p, v in values.items())
    return (
        f"save_pretrained writes it whole: in its config {changes or 'nothing had to change'}; a "
        f"{name} built from it has loaded the state dict and gives the same outputs"
    )


def _is_pretrained(model: nn.Module) -> bool:
    return is_settings(getattr(model, "config", None)) and callable(
        getattr(model, "save_pretrained", None)
    )


@dataclass(frozen=True, eq=False)
class _Found:
    """Numbers of a configuration that describe a cut network, and a network built with them."""

    values: Mapping[Path, float]
    fresh: nn.Module


@dataclass(frozen=True, eq=False)
class _Goal:
    """What a configuration is looked for, and how it is proved.

    Its network, the program that the network must be, the seed of random weights, factors of
    queries, and the lists of layers that got shorter.
    """

    made: nn.Module
    program: Program
    seed: int
    folds: Folds
    fewer: Fewer


class _Search:
    """Looks for the numbers of a configuration that give a network its shapes."""

    def __init__(self, goal: _Goal, config: Any) -> None:
        self.goal, self.made = goal, goal.made
        self.config = config
        self.wanted = _shapes(goal.made)
        self.built = self.proved = 0
        self.began = time.monotonic()
        self.read: Mapping[int, set[int]] = {}
        self.idle = set[Path]()  # numbers that size nothing
        self.known = dict[frozenset[tuple[Path, float]], Shapes | None]()
        self.ended = False  # nothing that is left to try can be right
        self.why = ""

    def run(self) -> _Found | None:
        """The first values that are proved; `why` says what is missing where there are none."""
        counts = self._counts(self._built({}) or {})
        start = self._built(counts)
        if start is None:
            return None
        if start.keys() != self.wanted.keys():
            odd = sorted(start.keys() ^ self.wanted.keys())[0]
            self.why = f"a {type(self.made).__name__} built from it differs at {odd!r}"
            return None
        self.read = self._changed(counts)
        self.why = self._unequal(start)
        if self.why and not any(isinstance(p[-1], int) for p, _ in _numbers(self.config)):
            return None
        if start == self.wanted:
            return self._proof(counts)
        for first, shapes in self._moves(counts, start):
            found = self._descend(first, shapes)
            if found is not None:
                return found
            if self.ended or self.proved >= MAX_PROVED or self.built >= MAX_BUILT:
                break
        self.why = self.why or self._unfit(start)
        return None

    def _counts(self, start: Shapes) -> dict[Path, float]:
        """Numbers of layers that bring the names of the tensors nearest to those wanted."""
        values, names, far = dict[Path, float](), start.keys(), len(start.keys() ^ self.wanted)
        better = True
        while names != self.wanted.keys() and better:
            better = False
            for path, value in _numbers(self.config):
                for old, new in set(self.goal.fewer.counts.values()):
                    got = self._built({**values, path: new}) if value == old else None
                    if got is not None and len(got.keys() ^ self.wanted) < far:
                        values, names, better = {**values, path: new}, got.keys(), True
                        far = len(names ^ self.wanted)
        return values

    def _descend(self, values: dict[Path, float], shapes: Shapes) -> _Found | None:
        """Move one number after the other while that brings the shapes nearer."""
        while shapes != self.wanted:
            better = self._moves(values, shapes)
            if not better:
                return None
            values, shapes = better[0]
        return self._proof(values)

    def _moves(
        self, values: dict[Path, float], shapes: Shapes
    ) -> list[tuple[dict[Path, float], Shapes]]:
        """Values with one number more, and their shapes, that are nearer; the nearest first."""
        far, out = _distance(shapes, self.wanted), []
        for path, value in _numbers(_with(self.config, values)):
            if path in values or path in self.idle:
                continue
            for trial in self._candidates(value, shapes):
                changed = {**values, path: trial}
                got = self._built(changed)
                if got == shapes:
                    self.idle.add(path)
                    break
                if got is not None and got.keys() == self.wanted.keys():
                    near = _distance(got, self.wanted)
                    if near < far:
                        out.append((near, changed, got))
        out.sort(key=lambda row: row[0])
        return [(changed, got) for _, changed, got in out]

    def _candidates(self, value: float, shapes: Shapes) -> list[float]:
        """Values that a number may need: by the ratio of a size, or as `forward` reads it now."""
        ratios = {
            (want, have)
            for name, shape in shapes.items()
            for have, want in zip(shape, self.wanted[name], strict=True)
            if have != want
        }
        scaled = {value * want / have for want, have in ratios}
        if isinstance(value, int):
            whole = {round(v) for v in scaled if v == round(v) and v >= 1}
            return sorted((whole | self.read.get(value, set())) - {value}, reverse=True)
        return sorted(scaled - {value}, reverse=True)

    def _changed(self, counts: dict[Path, float]) -> dict[int, set[int]]:
        """Old value -> new values of the attributes that the cut changed."""
        with torch.device("meta"):
            dense = type(self.made)(copy.deepcopy(_with(self.config, counts)))
        old, changed = differing(self.made, dense), dict[int, set[int]]()
        for place, value in differing(dense, self.made).items():
            if place in old and value >= 1:
                changed.setdefault(old[place], set()).add(value)
        return changed

    def _built(self, values: Mapping[Path, float]) -> Shapes | None:
        """Shapes of a network built with other numbers; None where its class refuses them."""
        key = frozenset(values.items())
        late = time.monotonic() - self.began > MAX_SECONDS
        if key in self.known or late or self.built >= MAX_BUILT:
            return self.known.get(key)
        self.built += 1
        self.known[key] = None
        try:
            with torch.device("meta"):
                fresh = type(self.made)(copy.deepcopy(_with(self.config, values)))
            self.known[key] = _shapes(fresh)
        except Exception as error:  # noqa: BLE001 - a foreign class refuses in its own way
            if not values:
                self.why = f"no {type(self.made).__name__} can be built from it ({told(error)})"
        return self.known[key]

    def _proof(self, values: Mapping[Path, float]) -> _Found | None:
        """The values, when a network built from them is the cut network."""
        self.proved += 1
        config = _with(self.config, values)
        try:
            if _reread(config) != dict(_numbers(config)):
                self.why = "it has other values once it is written and read"
                return None
            fresh = type(self.made)(copy.deepcopy(config)).eval()
            reason = self._other(fresh)
        except Exception as error:  # noqa: BLE001 - a foreign class refuses in its own way
            reason = told(error)
        self.why = reason
        return None if reason else _Found(values, fresh)

    def _other(self, fresh: nn.Module) -> str:
        """Why a network built from a configuration is not the cut network; else empty."""
        program = self.goal.program
        kind = next((p.dtype for p in self.made.parameters()), torch.float32)
        fresh.to(kind).load_state_dict(self.made.state_dict(), strict=True)
        mine = dict(fresh.named_buffers())
        for name, buffer in self.made.named_buffers():
            if not torch.equal(buffer, mine.get(name, buffer)):
                self.ended = True
                return (
                    f"the cut changed buffer {name!r}, which the state dict leaves out and which a "
                    f"{type(fresh).__name__} computes from it anew; leave out with ignored_layers "
                    "or scope what shares its units"
                )
        reason = compare_forms(fresh, program, self.goal.seed, self.goal.folds)
        if reason:
            return f"with sizes that fit, {reason}"
        example = pytree.tree_unflatten(list(program.example), program.in_spec)
        if _apart(fresh, self.made, example) > TOLERANCES.get(kind, 1e-4):
            return "a network built from it gives other outputs"
        return ""

    def _unequal(self, start: Shapes) -> str:
        """Layers that were alike and are no more, in words."""
        seen: dict[tuple[str, tuple[int, ...]], str] = {}
        for name, shape in start.items():
            first = seen.setdefault((re.sub(r"\d+", "*", name), shape), name)
            if self.wanted[first] != self.wanted[name]:
                return (
                    f"layers that one field of it sizes were cut unequally ({first!r} is "
                    f"{list(self.wanted[first])}, {name!r} {list(self.wanted[name])}); "
                    'allocation="uniform" cuts them alike'
                )
        return ""

    def _unfit(self, start: Shapes) -> str:
        name = next(n for n, shape in start.items() if shape != self.wanted[n])
        return (
            f"no values of it were found that size {name!r} as {list(self.wanted[name])} "
            f"(it was {list(start[name])}) and every other tensor as it is"
        )


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _distance(shapes: Shapes, wanted: Shapes) -> float:
    """How far shapes are apart: the sum of the logarithms of the ratios of their sizes."""
    far = 0.0
    for name, shape in shapes.items():
        if len(shape) != len(wanted[name]):
            return math.inf
        far += sum(
            abs(math.log(max(a, 1) / max(b, 1))) for a, b in zip(shape, wanted[name], strict=True)
        )
    return round(far, 6)


def _apart(fresh: nn.Module, made: nn.Module, example: tuple[Any, Any]) -> float:
    """Largest relative difference of the outputs of two networks."""
    args, kwargs = example
    with quiet_eval(fresh), quiet_eval(made), torch.no_grad():
        pairs = [pytree.tree_leaves(m(*args, **kwargs)) for m in (fresh, made)]
    return max((relative_difference(a, b) for a, b in zip(*pairs, strict=True)), default=0.0)


# ---------------------------------------------------------------- numbers of a configuration


def _numbers(config: Any) -> Iterator[tuple[Path, float]]:
    """Every number in a configuration, and where it is."""
    yield from _inside(config, (), DEPTH)


def _inside(value: Any, path: Path, depth: int) -> Iterator[tuple[Path, float]]:
    if type(value) in (int, float):
        yield path, value
    elif depth and type(value) in (list, tuple):
        for i, inner in enumerate(value):
            yield from _inside(inner, (*path, i), depth - 1)
    elif depth and (type(value) is dict or is_settings(value)):
        for key, inner in (value if type(value) is dict else vars(value)).items():
            if isinstance(key, str):
                yield from _inside(inner, (*path, key), depth - 1)


def _with(config: Any, values: Mapping[Path, float]) -> Any:
    """A configuration with other numbers; the given one is left as it is."""
    for path, value in values.items():
        config = replaced(config, path, value)
    return config


def _spelled(path: Path) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def _reread(config: Any) -> dict[Path, float]:
    """The numbers of a configuration after it is written and read, where it can be."""
    write, read = getattr(config, "to_dict", None), getattr(type(config), "from_dict", None)
    again = read(copy.deepcopy(write())) if callable(write) and callable(read) else config
    return dict(_numbers(again))


def carry_config(model: nn.Module, made: nn.Module) -> None:
    """Give a network the configuration of another where it has other numbers, in place.

    Args:
        model: Written to.
        made: Has the configuration.
    """
    if _is_pretrained(model) and dict(_numbers(model.config)) != dict(_numbers(made.config)):
        _hang(model, made)


def _hang(made: nn.Module, fresh: nn.Module) -> list[tuple[dict[str, Any], str, Any]]:
    """Give a network the configuration of another, in place; what was there before, to undo it."""
    parts = {id(part) for part in _settings(fresh.config)}
    before = []
    for name, module in fresh.named_modules():
        own = vars(made.get_submodule(name))
        for attribute, value in vars(module).items():
            if id(value) in parts and attribute in own:
                before.append((own, attribute, own[attribute]))
                own[attribute] = value
    return before


def _settings(config: Any) -> Iterator[Any]:
    yield config
    for value in vars(config).values():
        if is_settings(value):
            yield from _settings(value)
