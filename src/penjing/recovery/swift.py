"""A program as gradient steps run it, several times faster than as it was captured.

Batch norms are folded into their layers, channels lie last in memory, and products are computed in
bfloat16 where the processor has them. The parameters stay those of the network, in their own
precision; they are folded anew at each call, so gradients reach every one of them. A program with
ops that read how values lie in memory runs as it was captured.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from penjing.graph.capture import Program
from penjing.graph.folding import FoldedNorm, folded_norms

IMAGES = 4  # dimensions of what has channels to put last: images, and weights of 2d convolutions
BFLOAT16 = ("avx512_bf16", "amx_bf16")  # instructions that multiply in it
ALIKE = 1e-3  # of the largest output: rounding gives less, a value read in another order more


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether products in bfloat16 are faster than in float32 on a device."""
    if device.type != "cpu":
        return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    known = torch.cpu.get_capabilities()
    return any(known.get(name) for name in BFLOAT16)


@dataclass(eq=False)
class Swift:
    """One program, ready for many calls.

    Args:
        program: A captured network, in eval mode; only read.
        bfloat16: Compute products in it.
    """

    program: Program
    bfloat16: bool
    folded: Program = field(init=False)
    folds: list[FoldedNorm] = field(init=False)
    compact: bool = field(init=False, default=True)

    def __post_init__(self) -> None:
        folded, self.folds = folded_norms(self.program)
        self.folded = _compact(folded)
        if not self._agrees():
            self.folded, self.folds, self.compact = self.program, [], False

    @property
    def layers(self) -> frozenset[str]:
        """Nodes of layers whose values are those behind their norm here."""
        return frozenset(fold.layer for fold in self.folds)

    def run(
        self,
        flat: list[Any],
        names: Collection[str] = (),
        tensors: Mapping[str, Tensor] | None = None,
        exact: bool = False,
    ) -> tuple[list[Any], dict[str, Any]]:
        """Outputs in float32 at least, and inner values by node name.

        Args:
            flat: Flat inputs.
            names: Nodes whose values are wanted.
            tensors: Other values for stored tensors of the program.
            exact: Without bfloat16.
        """
        device = next((t.device for t in self.program.tensors.values()), torch.device("cpu"))
        kept: dict[str, Any] = {}
        placed = [self.laid(v) for v in flat]
        given = None if tensors is None else self._fold(tensors)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bfloat16 and not exact):
            outputs = self.folded.run(placed, given, partial(_keep, kept, frozenset(names)))
        return [_whole(v) for v in outputs], kept

    def laid(self, value: Any) -> Any:
        """An input or a tensor as it lies in memory here."""
        return compact(value) if self.compact else value

    @torch.no_grad()
    def refusal(self) -> str:
        """Why the program does not run on its example; empty where it does."""
        try:
            with torch.random.fork_rng(devices=[]):
                self.run(_copied(self.program.example))
        except RuntimeError as error:
            return str(error).partition("\n")[0]
        return ""

    @torch.no_grad()
    def _agrees(self) -> bool:
        """Whether outputs on the example are those of the program.

        Views that count in memory (`as_strided`, `view_as_complex`) want values as captured.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            right = self.program.run(_copied(self.program.example))
            torch.manual_seed(0)
            try:
                own, _ = self.run(_copied(self.program.example), exact=True)
            except RuntimeError:
                return False
        return all(_alike(a, b) for a, b in zip(own, right, strict=True))

    def _fold(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of the folded program."""
        values = {**self.program.tensors, **tensors}
        for fold in self.folds:
            values[fold.weight], values[fold.becomes] = fold.values(values)
        return {name: values[name] for name in self.folded.tensors if name in values}


def compact(value: Any) -> Any:
    """Images, and weights for them, with channels together in memory; others as they are."""
    if isinstance(value, Tensor) and value.dim() == IMAGES:
        return value.contiguous(memory_format=torch.channels_last)
    return value


def _keep(kept: dict[str, Any], names: frozenset[str], node: fx.Node, value: Any) -> Any:
    """Note a value that is wanted, and lay its gradient out as it lies itself.

    Slices, padding and means give gradients with channels first; behind one, all the others would
    have them so too, and every convolution would turn its own around.
    """
    if node.name in names:
        kept[node.name] = value
    if isinstance(value, Tensor) and value.grad_fn is not None and _is_compact(value):
        value.register_hook(compact)
    return value


def _is_compact(value: Tensor) -> bool:
    last = value.dim() == IMAGES and value.is_contiguous(memory_format=torch.channels_last)
    return last and not value.is_contiguous()


def _compact(program: Program) -> Program:
    return replace(program, tensors={n: compact(t.detach()) for n, t in program.tensors.items()})


def _copied(flat: Sequence[Any]) -> list[Any]:
    """Inputs that a program may write into."""
    return [v.clone() if isinstance(v, Tensor) else v for v in flat]


def _alike(given: Any, wanted: Any) -> bool:
    if not isinstance(wanted, Tensor) or not wanted.is_floating_point():
        return True  # a choice may turn where two values are all but equal
    if given.shape != wanted.shape:
        return False
    finite = wanted[wanted.isfinite()].abs()
    largest = float(finite.max()) if finite.numel() else 0.0
    return torch.allclose(
        given.double(), wanted.double(), rtol=0, atol=ALIKE * largest, equal_nan=True
    )


def _whole(value: Any) -> Any:
    """A value in float32 where it was computed in bfloat16."""
    half = isinstance(value, Tensor) and value.dtype == torch.bfloat16
    return value.float() if half else value
