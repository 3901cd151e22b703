"""A cut network as a module: of the user's own class where its forward follows, else graph form."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from penjing.errors import PenjingError, VerificationError
from penjing.figures import Proof
from penjing.graph.attributes import compared_values, new_values, readings, write
from penjing.graph.capture import Program, quiet_eval
from penjing.graph.experts import batched_experts, settle_experts
from penjing.graph.form import graph_form
from penjing.graph.network import Cut
from penjing.pruning.scales import Folds, folded, scale_folds
from penjing.pruning.surgery import cut_module, shrink, write_tensors
from penjing.pruning.verify import (
    TOLERANCE,
    TRIES,
    Widened,
    prove,
    random_like,
    randomised,
    relative_difference,
    run_wide,
)

TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 1e-2}
"""Relative, by the dtype of the outputs: kernels for different widths round differently."""

MAX_COMPARED = 4  # runs in which sizes that a forward compares are looked at

FAILURES = (
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    PenjingError,
)
"""What a user's forward raises when the sizes that it bakes in are gone."""


@dataclass(frozen=True, slots=True)
class Made:
    """A cut network and the proof that it is right.

    Args:
        model: The module.
        proof: What the comparison showed.
        folds: Factors that the module's queries have taken on beside the cut graph's.
    """

    model: nn.Module
    proof: Proof
    folds: Folds = field(default_factory=dict)

    def write(self, tensors: Mapping[str, Tensor]) -> None:
        """Give the module new values of the cut graph's tensors, in place."""
        write_tensors(self.model, folded(tensors, self.folds))


def make(model: nn.Module, cut: Cut, seed: int = 0) -> Made:
    """Cut a network, prove the cut, and choose the form.

    Args:
        model: The user's network, on the CPU; not changed.
        cut: What goes.
        seed: Of the random weights and inputs of the proof.

    Returns:
        A module of the user's class when its outputs equal the cut graph's on random weights and on
        the real ones, else the graph form.

    Raises:
        VerificationError: The cut graph differs from the masked original.
    """
    evidence = prove(cut, seed)
    made = cut_module(model, cut)
    reason = _refused(model, made, cut, seed)
    if reason:
        reason = _with_attributes(model, made, cut, seed)
    folds = scale_folds(cut)
    if folds and not reason:
        reason = _other_scale(made, cut.program, seed, folds)
    if folds and reason and not _refused(model, made, cut, seed, folds):
        reason = ""
        write_tensors(made, folded(cut.program.tensors, folds))
    else:
        folds = {}
    if reason:
        made = graph_form(cut.program)
        made.meta.update(original=type(model).__name__, reason=reason)
        made.train(model.training)
    else:
        args, kwargs = pytree.tree_unflatten(list(cut.program.example), cut.program.in_spec)
        settle_experts(made, args, kwargs, _experts(cut))
    proof = Proof(
        error=evidence.error,
        moved=evidence.moved,
        real_error=module_difference(made, cut.program, list(cut.program.example)),
        nodes=evidence.nodes,
        form="graph" if reason else "module",
        reason=reason,
    )
    differs = _differs_on_example(made, cut.program, folds)
    if differs:
        raise VerificationError(f"the cut {proof.form} form: {differs}; the cut is refused")
    return Made(made, proof, folds)


def _experts(cut: Cut) -> dict[str, tuple[int, int]]:
    """Modules that hold stacked experts, with their number before and after the cut."""
    before, after = cut.dense.tensors, cut.program.tensors
    return {
        piece.tensor.rpartition(".")[0]: (len(before[piece.tensor]), len(after[piece.tensor]))
        for group in cut.network.groups
        if group.kind == "experts" and group.name in cut.plan.drop
        for piece in group.slices
        if piece.dim == 0
    }


def _refused(
    model: nn.Module, made: nn.Module, cut: Cut, seed: int, folds: Folds | None = None
) -> str:
    """Why the cut module is not what the cut graph is; else empty."""
    try:
        with batched_experts(made):  # how many there are is found once all else is right
            return (
                compare_forms(made, cut.program, seed, folds)
                or _differs_on_example(made, cut.program, folds)
                or _trains_no_more(model, made, cut)
            )
    except FAILURES as error:
        return told(error)


def _with_attributes(model: nn.Module, made: nn.Module, cut: Cut, seed: int) -> str:
    """Set the integers that `forward` reads to what the cut asks for; why it is still refused."""
    program = cut.network.program
    example = pytree.tree_unflatten(list(program.example), program.in_spec)
    try:
        found = readings(model, example)
        write(made, new_values(found.calls, program, cut.program))
    except FAILURES as error:
        return told(error)
    reason = _refused(model, made, cut, seed)
    for _ in range(MAX_COMPARED if found.compared else 0):  # one may stand behind another
        sizes = compared_values(made, example, found.compared) if reason else {}
        if not sizes:
            break
        write(made, sizes)
        reason = _refused(model, made, cut, seed)
    return reason


def shrink_whole(model: nn.Module, cut: Cut) -> None:
    """Cut a network in place, with the integers that its `forward` reads; nothing is proved.

    Args:
        model: The network that `cut` was made from.
        cut: What goes; known to keep the class.
    """
    program = cut.network.program
    example = pytree.tree_unflatten(list(program.example), program.in_spec)
    found = readings(model, example)
    values = new_values(found.calls, program, cut.program)
    shrink(model, cut)
    write(model, values)
    for _ in range(MAX_COMPARED if found.compared else 0):
        sizes = {} if _runs(model, example) else compared_values(model, example, found.compared)
        if not sizes:
            break
        write(model, sizes)


def _runs(model: nn.Module, example: tuple[tuple[Any, ...], dict[str, Any]]) -> bool:
    try:
        with quiet_eval(model), torch.no_grad():
            model(*example[0], **example[1])
    except FAILURES:
        return False
    return True


def folds_of(module: nn.Module, cut: Cut, seed: int = 0) -> Folds:
    """Factors of queries with which a cut module is the cut graph; none where it is without.

    Args:
        module: A cut network of the user's class.
        cut: What went.
        seed: Of the random weights that tell.
    """
    folds = scale_folds(cut)
    if not folds:
        return {}
    without = _difference(module, cut.program, seed)
    return folds if _difference(module, cut.program, seed, folds) < without else {}


def _differs_on_example(module: nn.Module, program: Program, folds: Folds | None = None) -> str:
    """Why a module differs from a program on real weights, more than narrow floats round."""
    limit = TOLERANCES.get(_dtype(program), 1e-4)
    error = module_difference(module, program, list(program.example))
    if error <= limit or not _really_differs(module, program, folds or {}):
        return ""
    return (
        f"its forward differs from the cut graph by {error:.1e} (relative) on the example inputs, "
        f"more than {limit:.0e}"
    )


def _really_differs(module: nn.Module, program: Program, folds: Folds) -> bool:
    """Whether a module differs from a program on the real weights, or narrow floats only round."""
    wide = {n: t.double() if t.is_floating_point() else t for n, t in program.tensors.items()}
    inputs = [
        v.double() if isinstance(v, Tensor) and v.is_floating_point() else v
        for v in program.example
    ]
    return wide_difference(module, program, inputs, wide, folds) > TOLERANCE


def told(error: Exception) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"


def _trains_no_more(model: nn.Module, made: nn.Module, cut: Cut) -> str:
    """Why the cut module fails in training mode where the original runs; else empty.

    Only a layer that evaluation never reads, such as an auxiliary head, can tell the two apart.
    """
    program = cut.network.program
    unread = [n for n, fqn in program.stored.items() if fqn in program.parameters]
    if all(program.nodes[name].users for name in unread):
        return ""
    args, kwargs = pytree.tree_unflatten(list(program.example), program.in_spec)
    trial = model
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        try:
            for trial in (model, made):
                twin = copy.deepcopy(trial).train()
                with batched_experts(twin):
                    twin(*args, **kwargs)
        except FAILURES as error:
            return "" if trial is model else f"in training mode, {told(error)}"
    return ""


def compare_forms(
    module: nn.Module, program: Program, seed: int, folds: Folds | None = None
) -> str:
    """Why the module, on random weights in float64, differs from the cut graph; else empty."""
    difference = _difference(module, program, seed, folds)
    return (
        ""
        if difference <= TOLERANCE
        else f"its forward differs by {difference:.1e} (relative): it bakes in a size that changed"
    )


def _other_scale(module: nn.Module, program: Program, seed: int, folds: Folds) -> str:
    """Why a module without its folds differs from the cut graph on weights that can tell; or empty.

    Where scores hardly differ, a softmax shows no scale: with and without, both are then right.
    """
    for draw in range(seed, seed + TRIES):
        differs = compare_forms(module, program, draw)
        if differs or compare_forms(module, program, draw, folds):
            return differs
    return ""


def _difference(
    module: nn.Module, program: Program, seed: int, folds: Folds | None = None
) -> float:
    """Largest relative difference on random weights and inputs."""
    generator = torch.Generator().manual_seed(seed)
    tensors = randomised(program, generator)
    inputs = [random_like(v, generator) for v in program.example]
    return wide_difference(module, program, inputs, tensors, folds)


def wide_difference(
    module: nn.Module,
    program: Program,
    inputs: list[Any],
    tensors: Mapping[str, Tensor],
    folds: Folds | None = None,
) -> float:
    """Largest relative difference between a module and a program, both in float64.

    Args:
        module: In any mode; not changed.
        program: What it should compute.
        inputs: Flat inputs, floating ones in float64.
        tensors: Every stored tensor by qualified name, floating ones in float64.
        folds: Factors that the module's tensors have beside the program's.

    Returns:
        The difference in evaluation mode.
    """
    twin = _wide(copy.deepcopy(module)).eval()
    write_tensors(twin, folded(tensors, folds or {}))
    args, kwargs = pytree.tree_unflatten(list(inputs), program.in_spec)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            drawn = torch.get_rng_state()
            with Widened(), batched_experts(twin):
                got = pytree.tree_leaves(twin(*args, **kwargs))
            torch.set_rng_state(drawn)
            want = run_wide(program, inputs, tensors)
    finally:
        torch.set_default_dtype(default)
    return _largest(got, want)


def _wide(module: nn.Module) -> nn.Module:
    """The module in float64, tensors that are plain attributes too."""
    for part in module.double().modules():
        for name, value in vars(part).items():
            if isinstance(value, Tensor) and value.is_floating_point():
                vars(part)[name] = value.double()
    return module


def _largest(got: list[Any], want: list[Any]) -> float:
    pairs = [(g, w) for g, w in zip(got, want, strict=True) if isinstance(w, Tensor)]
    return max((relative_difference(g, w) for g, w in pairs), default=0.0)


def module_difference(
    module: nn.Module,
    program: Program,
    inputs: list[Any],
) -> float:
    """Largest relative difference between a module in eval mode and a program on flat inputs."""
    args, kwargs = pytree.tree_unflatten(inputs, program.in_spec)
    modes = {m: m.training for m in module.modules()}
    module.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            drawn = torch.get_rng_state()
            got = pytree.tree_leaves(module(*args, **kwargs))
            torch.set_rng_state(drawn)
            want = program.run(inputs)
    finally:
        for part, mode in modes.items():
            part.training = mode
    return _largest(got, want)


def _dtype(program: Program) -> torch.dtype:
    return next(
        (program.tensors[n].dtype for n in sorted(program.parameters) if n in program.tensors),
        torch.float32,
    )


def with_tensors(program: Program, tensors: Mapping[str, Tensor]) -> Program:
    """A program with some of its tensors replaced."""
    return replace(program, tensors={**program.tensors, **tensors})
