"""What the outputs of a network are: scores of classes, and in which dimension, or values.

Whatever compares outputs asks here: losses of distillation, criteria without labels, agreement.
The classes are in dimension 1 of `(B, C)` and of maps `(B, C, H, W)`, and in the last one of
sequences `(B, T, C)`, as language models and taggers have them; labels that fit another dimension
say more, and `class_dim` decides.

Of several outputs, those called logits, scores or classes are scores and the others values. Without
such names the first that can be scores is; so is every output of as many classes, as auxiliary
heads and exits have, and every other of two dimensions. Boxes, masks and hidden states, by their
names or by what is left, are values. A `kind` for each output, by name or in turn, decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from penjing.errors import InputError
from penjing.task.batches import describe

Kind = Literal["classes", "binary", "values"]
Kinds = Kind | Mapping[str, Kind] | Sequence[Kind] | None

SCORES = ("logit", "score", "class", "cls")
VALUES = ("box", "mask", "hidden", "pooler", "embed", "state")
SEQUENCE_RANK = 3  # (B, T, C)


@dataclass(frozen=True, slots=True)
class Output:
    """One floating-point output.

    Args:
        value: The tensor.
        name: Where it is among the outputs, such as "aux" or "1"; empty for the only one.
        kind: What it is.
        class_dim: Dimension of its classes, from 0; of values and binary logits without a meaning.
    """

    value: Tensor
    name: str
    kind: Kind
    class_dim: int

    def scores(self, value: Tensor) -> Tensor:
        """A tensor like this output with its classes last; values as they are.

        A binary logit against nothing is a choice of two classes.
        """
        if self.kind == "values":
            return value
        if self.kind == "binary":
            return torch.stack([value, torch.zeros_like(value)], -1)
        return value.movedim(self.class_dim, -1)


@dataclass(frozen=True, slots=True)
class Outputs:
    """How outputs are read.

    Args:
        kind: Scores of "classes", one "binary" logit each, or "values"; one for all, or one for
            each output, by name or in turn. None takes what the outputs look like.
        class_dim: Dimension of the classes; None finds it, as this module says.

    Raises:
        InputError: An unknown kind.

    Example:
        >>> import torch
        >>> tagged = torch.zeros(2, 5, 7)
        >>> [(o.kind, o.class_dim) for o in Outputs().read(tagged)]
        [('classes', 2)]
        >>> found = {"logits": tagged, "pred_boxes": torch.zeros(2, 5, 4)}
        >>> [(o.name, o.kind) for o in Outputs().read(found)]
        [('logits', 'classes'), ('pred_boxes', 'values')]
    """

    kind: Kinds = None
    class_dim: int | None = None

    def __post_init__(self) -> None:
        for one in self._each:
            if one not in get_args(Kind):
                raise InputError(
                    f"kind is {one!r}; it is one of {', '.join(get_args(Kind))}, or one of them "
                    "for each output, by name or in turn"
                )

    @property
    def _each(self) -> Sequence[Any]:
        if self.kind is None:
            return ()
        if isinstance(self.kind, Mapping):
            return tuple(self.kind.values())
        return (self.kind,) if isinstance(self.kind, str) else tuple(self.kind)

    def read(self, outputs: Any) -> list[Output]:
        """Tell what every floating-point output is.

        Args:
            outputs: A tensor, or a structure of tensors.

        Returns:
            One per floating-point tensor, in the order of the structure.

        Raises:
            InputError: Classes are said to be where there are none, or kinds are of other outputs.
        """
        named = named_tensors(outputs)
        kinds = self._kinds(named)
        read = [
            Output(value, name, kind, self._class_dim(value))
            for (name, value), kind in zip(named.items(), kinds, strict=True)
        ]
        for one in read:
            if one.kind == "classes" and not self._holds_classes(one.value):
                raise InputError(self._without_classes(one))
        return read

    def at(self, value: Tensor, labels: Any) -> Outputs:
        """The same with the dimension of the classes settled by labels, where they say it.

        Args:
            value: An output with scores.
            labels: Class numbers of the shape of `value` without its classes, or anything else.
        """
        if self.class_dim is not None or not isinstance(labels, Tensor):
            return self
        usual = self._class_dim(value)
        fits = [d for d in range(1, value.dim()) if labels.shape == _without(value, d)]
        if labels.is_floating_point() or not fits or usual in fits:
            return self
        return Outputs(self.kind, fits[0])

    def _kinds(self, named: Mapping[str, Tensor]) -> list[Kind]:
        if isinstance(self.kind, Mapping):
            return [self._named_kind(name, self.kind, named) for name in named]
        if self.kind is not None and not isinstance(self.kind, str):
            if len(self.kind) != len(named):
                raise InputError(
                    f"kind has {len(self.kind)} entries, {list(self.kind)}, for {len(named)} "
                    f"floating-point outputs: {_shapes(named)}"
                )
            return list(self.kind)
        if self.kind in ("binary", "values"):
            return [self.kind] * len(named)
        found = self._found(named)
        if self.kind == "classes" and "classes" not in found:
            return ["classes"] * len(named)  # which is refused with what the first one lacks
        return found

    def _named_kind(
        self, name: str, kinds: Mapping[str, Kind], named: Mapping[str, Tensor]
    ) -> Kind:
        parts = name.split(".")
        known = next((part for part in (name, *parts) if part in kinds), None)
        if known is None:
            raise InputError(
                f"kind says nothing of the output {name!r}; it has {', '.join(sorted(kinds))}, the "
                f"outputs are {_shapes(named)}"
            )
        return kinds[known]

    def _found(self, named: Mapping[str, Tensor]) -> list[Kind]:
        """Which outputs are scores, by their names, else by their shapes."""
        able = {n: self._holds_classes(v) and not _called(n, VALUES) for n, v in named.items()}
        called = {n for n in named if able[n] and _called(n, SCORES)}
        if not called:
            first = next((self._classes(v) for n, v in named.items() if able[n]), 0)
            called = {
                n
                for n, v in named.items()
                if able[n] and (v.dim() == 2 or self._classes(v) == first)
            }
        return ["classes" if n in called else "values" for n in named]

    def _class_dim(self, value: Tensor) -> int:
        usual = value.dim() - 1 if value.dim() == SEQUENCE_RANK else 1
        given = usual if self.class_dim is None else self.class_dim
        return given + value.dim() if given < 0 else given

    def _holds_classes(self, value: Tensor) -> bool:
        return 0 <= self._class_dim(value) < value.dim() and self._classes(value) > 1

    def _classes(self, value: Tensor) -> int:
        return int(value.shape[self._class_dim(value)])

    def _without_classes(self, one: Output) -> str:
        place = f"output {one.name!r}" if one.name else "outputs"
        return (
            f"{place} {describe(one.value)} hold no scores of classes in dimension "
            f"{one.class_dim}; "
            'give Task(kind="binary") for one logit each, Task(kind="values") for regression, '
            "Task(kind=(...)) for one kind each, or Task(class_dim=...)"
        )


def named_tensors(outputs: Any) -> dict[str, Tensor]:
    """Floating-point tensors of a structure by their place in it, "" for a lone tensor.

    Args:
        outputs: A tensor, or a structure of tensors.

    Returns:
        In the order of the structure.
    """
    leaves, _ = pytree.tree_flatten_with_path(outputs)
    return {
        ".".join(_key(part) for part in path): leaf
        for path, leaf in leaves
        if isinstance(leaf, Tensor) and leaf.is_floating_point()
    }


def _key(part: Any) -> str:
    """One step of a path: a key, a field or a position."""
    return str(next(getattr(part, n) for n in ("key", "name", "idx") if hasattr(part, n)))


def _called(name: str, words: Sequence[str]) -> bool:
    return any(word in name.lower() for word in words)


def _without(value: Tensor, dim: int) -> tuple[int, ...]:
    return (*value.shape[:dim], *value.shape[dim + 1 :])


def _shapes(named: Mapping[str, Tensor]) -> str:
    return ", ".join(f"{name or 'the only one'} {list(v.shape)}" for name, v in named.items())
