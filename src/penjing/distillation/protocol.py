"""What a distillation loss is, and what several of them have in common."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from penjing.errors import InputError, StrategyError
from penjing.task.outputs import Output, Outputs


class Distillation(Protocol):
    """How a teacher counts. Any callable of this shape with `of_features` is one; they chain.

    `of_features` says what is compared: False gives the outputs of both, as the task predicts them;
    True gives the matched inner tensors of both, a tuple each, in the same order.
    """

    of_features: ClassVar[bool]

    def __call__(self, student: Any, teacher: Any, loss: Tensor | None = None) -> Tensor:
        """The loss to train on, given the loss so far; None where data has no labels."""
        ...


def pairs(student: Any, teacher: Any, read: Outputs) -> list[tuple[Output, Tensor, Tensor]]:
    """Floating-point outputs of both, side by side, the teacher's without gradient.

    Args:
        student: Outputs of the student.
        teacher: Those of the teacher.
        read: What they are.

    Returns:
        What each output is, and both tensors, in single precision at least.

    Raises:
        InputError: Their shapes differ, there are none, or they are not what `read` says.
    """
    mine, theirs = (
        [x for x in pytree.tree_leaves(out) if isinstance(x, Tensor) and x.is_floating_point()]
        for out in (student, teacher)
    )
    shapes = [[tuple(x.shape) for x in outputs] for outputs in (mine, theirs)]
    if shapes[0] != shapes[1] or not mine:
        raise InputError(
            f"the student gives outputs of shape {_list(shapes[0])}, the teacher "
            f"{_list(shapes[1])}; a teacher by logits must have the same outputs and classes"
        )
    told = read.read(teacher)
    return [
        (out, single(a), single(b.detach())) for out, a, b in zip(told, mine, theirs, strict=True)
    ]


def features(student: Any, teacher: Any) -> list[tuple[Tensor, Tensor]]:
    """Matched inner tensors, side by side, in single precision, the teacher's without gradient.

    Raises:
        InputError: There are none, or a pair differs in more than its channels' number.
    """
    if not student or len(student) != len(teacher):
        raise InputError(f"{len(student)} tensors of the student, {len(teacher)} of the teacher")
    return [(single(a), single(b.detach())) for a, b in zip(student, teacher, strict=True)]


def rows(x: Tensor) -> Tensor:
    """Positions of all samples as rows over channels: maps `BC...`, sequences `BTC`, or `BC`."""
    return x.movedim(1, -1).flatten(0, -2) if x.dim() > 3 else x.flatten(0, -2)


def vectors(x: Tensor) -> Tensor:
    """One vector a sample: channels averaged over space or sequence."""
    if x.dim() < 3:
        return x
    return x.flatten(2).mean(2) if x.dim() > 3 else x.mean(1)


def best_reader(s_NC: Tensor, t_ND: Tensor, ridge: float) -> Tensor:
    """The linear map `(C, D)` by which the teacher's rows are best read from the student's.

    Args:
        s_NC: Rows of the student.
        t_ND: Rows of the teacher.
        ridge: Damping, relative to the mean diagonal of the student's Gram matrix.

    Returns:
        The ridge least squares solution, without gradient.
    """
    with torch.no_grad():
        gram = s_NC.T @ s_NC
        damping = ridge * gram.diagonal().mean() + torch.finfo(gram.dtype).tiny
        eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        solved: Tensor = torch.linalg.solve(gram + damping * eye, s_NC.T @ t_ND)
        return solved


def added(term: Tensor, weight: float, loss: Tensor | None) -> Tensor:
    """The loss with `weight` times the term on top."""
    return weight * term if loss is None else loss + weight * term


def check_positive(**values: float) -> None:
    """Refuse what is not above 0.

    Raises:
        StrategyError: A value is 0, negative or NaN.
    """
    for name, value in values.items():
        if not value > 0:
            raise StrategyError(f"{name} is {value}; it must be above 0")


def single(x: Tensor) -> Tensor:
    """Half precision is too coarse for the tails of a softmax and for sums of squares."""
    return x.float() if x.dtype in {torch.float16, torch.bfloat16} else x


def _list(shapes: list[tuple[int, ...]]) -> str:
    return " and ".join(str(shape) for shape in shapes) or "that are no floating-point tensors"
