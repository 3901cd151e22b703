"""Whole layers that a cut leaves empty: taken out of their list, the later ones numbered anew."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from penjing.graph.attributes import is_settings
from penjing.graph.capture import Program
from penjing.graph.network import Cut

Parts = list[tuple[nn.Module, dict[str, nn.Module | None]]]

_LISTS = (nn.ModuleList, nn.Sequential)


@dataclass(frozen=True, slots=True)
class Fewer:
    """Lists of layers that get shorter.

    Args:
        kept: Qualified name of a list -> numbers of its layers that stay.
        counts: Its length before and after.
    """

    kept: Mapping[str, tuple[int, ...]]
    counts: Mapping[str, tuple[int, int]]

    @classmethod
    def of(cls, model: nn.Module, cut: Cut) -> Fewer:
        """Find the layers all of whose tensors a cut removes.

        Args:
            model: The network before or after the cut, its layers still at their old numbers.
            cut: What goes.

        Returns:
            The lists that keep a layer and lose one.
        """
        before, after = cut.network.program.tensors, cut.program.tensors
        kept, counts = {}, {}
        for name, part in model.named_modules():
            if not isinstance(part, _LISTS):
                continue
            heads = [f"{name}.{i}." if name else f"{i}." for i in range(len(part))]
            stay = tuple(
                i
                for i, head in enumerate(heads)
                if _any_inside(after, head) or not _any_inside(before, head)
            )
            if 0 < len(stay) < len(part):
                kept[name], counts[name] = stay, (len(part), len(stay))
        return cls(kept, counts)

    def those_of(self, made: nn.Module) -> Fewer:
        """The lists that are shorter in another network, which lost its layers before."""
        lengths = {n: len(p) for n, p in made.named_modules() if isinstance(p, _LISTS)}
        kept = {n: k for n, k in self.kept.items() if lengths.get(self.name(n)) == len(k)}
        return Fewer(kept, {n: self.counts[n] for n in kept})

    def apply(self, model: nn.Module) -> Parts:
        """Take the layers out, in place; what `restore` needs to put them back."""
        before: Parts = []
        for name in sorted(self.kept, key=len, reverse=True):  # inner lists have their old names
            part = model.get_submodule(name)
            before.append((part, part._modules))
            left = (part._modules[str(number)] for number in self.kept[name])
            part._modules = {str(i): layer for i, layer in enumerate(left)}
        return before

    def name(self, old: str) -> str:
        """A qualified name after the layers before it went.

        Example:
            >>> Fewer({"layers": (0, 2)}, {"layers": (3, 2)}).name("layers.2.weight")
            'layers.1.weight'
        """
        parts = old.split(".")
        for i, part in enumerate(parts):
            stay = self.kept.get(".".join(old.split(".")[:i]), ())
            if part.isdigit() and int(part) in stay:
                parts[i] = str(stay.index(int(part)))
        return ".".join(parts)

    def program(self, program: Program) -> Program:
        """The same program with the names that its tensors have now."""
        if not self.kept:
            return program
        return replace(
            program,
            stored={node: self.name(fqn) for node, fqn in program.stored.items()},
            tensors={self.name(fqn): t for fqn, t in program.tensors.items()},
            parameters=frozenset(map(self.name, program.parameters)),
            buffers=frozenset(map(self.name, program.buffers)),
            transient=frozenset(map(self.name, program.transient)),
        )

    def configs(self, config: Any) -> Iterator[Any]:
        """A configuration as it is, then with entries for fewer layers in lists that have one each.

        `layer_types` is such a list.
        """
        yield config
        stays = {self.counts[name][0]: stay for name, stay in self.kept.items()}
        if stays:
            yield _shorter(config, stays)


def _shorter(config: Any, stays: Mapping[int, tuple[int, ...]]) -> Any:
    made = copy.copy(config)
    for key, value in vars(config).items():
        if is_settings(value):
            vars(made)[key] = _shorter(value, stays)
        elif type(value) in (list, tuple) and len(value) in stays:
            vars(made)[key] = type(value)(value[i] for i in stays[len(value)])
    return made


def restore(before: Parts) -> None:
    """Put layers back, in place."""
    for part, modules in before:
        part._modules = modules


def layer_of(model: nn.Module, tensors: Sequence[str]) -> str:
    """The innermost layer of a list that holds some tensors; empty where none holds them all."""
    lists = {name for name, part in model.named_modules() if isinstance(part, _LISTS)}
    parts = tensors[0].split(".")
    for i in range(len(parts) - 1, 0, -1):
        layer = ".".join(parts[:i])
        if layer.rpartition(".")[0] in lists and all(t.startswith(f"{layer}.") for t in tensors):
            return layer
    return ""


def _any_inside(tensors: Mapping[str, Any], head: str) -> bool:
    return any(name.startswith(head) for name in tensors)
