"""Batch norms in eval mode: a scale and a shift per channel, from stored tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, fx

from penjing.graph.call import Call


@dataclass(frozen=True, slots=True, kw_only=True)
class Norm:
    """A batch norm in eval mode.

    Args:
        node: Name of its node.
        weight: Qualified name of gamma, if it has one.
        bias: Qualified name of beta, if it has one.
        mean: Qualified name of the running mean.
        var: Qualified name of the running variance.
        eps: Added to the variance.
    """

    node: str
    weight: str | None
    bias: str | None
    mean: str
    var: str
    eps: float

    @property
    def names(self) -> frozenset[str]:
        """Qualified names of everything that it reads."""
        return frozenset(n for n in (self.weight, self.bias, self.mean, self.var) if n is not None)

    def affine(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Scale and shift per channel, float64: the norm is `scale * x + shift`."""
        deviation = (tensors[self.var].double() + self.eps).sqrt()
        scale = 1 / deviation if self.weight is None else tensors[self.weight].double() / deviation
        shift = -tensors[self.mean].double() * scale
        return scale, shift if self.bias is None else shift + tensors[self.bias].double()


def stored_norm(stored: Mapping[str, str], node: fx.Node) -> Norm | None:
    """Describe a batch norm by the tensors that it reads.

    Args:
        stored: Placeholder name -> qualified name.
        node: The batch norm.

    Returns:
        The norm; None where it computes its statistics, or something that it reads is computed.
    """
    call = Call(node)
    names: dict[str, str | None] = {}
    for key in ("weight", "bias", "running_mean", "running_var"):
        given = call.arg(key)
        names[key] = None if given is None else stored.get(given.name, "")
    mean, var = names["running_mean"], names["running_var"]
    if call.arg("training") or mean is None or var is None or "" in names.values():
        return None
    eps = float(call.arg("eps"))
    return Norm(
        node=node.name, weight=names["weight"], bias=names["bias"], mean=mean, var=var, eps=eps
    )
