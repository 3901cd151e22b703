"""Batch-norm scale: the factor that a unit leaves its norm with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from penjing.errors import StrategyError
from penjing.plan import Group
from penjing.pruning.importance.sums import by_unit

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@dataclass(frozen=True, slots=True, kw_only=True)
class NormScale:
    """Size of the scale |gamma| of a unit, summed over the batch norms that it cuts.

    Meant for networks trained with a penalty on these scales: without one, a scale and the layer
    behind it can trade factors, and it says little.

    Args:
        otherwise: Importance of groups that cut no batch norm with a scale, any function of
            (model, group); None refuses them.

    Source:
        Liu et al. 2017, arXiv:1708.06519 (network slimming).

    Example:
        >>> from penjing.plan import Slice
        >>> norm = nn.Sequential(nn.BatchNorm1d(2))
        >>> _ = norm[0].weight.data.copy_(torch.tensor([-3.0, 1.0]))
        >>> NormScale()(norm, Group("norm", units=2, slices=(Slice("0.weight", 0),)))
        tensor([3., 1.])
    """

    otherwise: Callable[[nn.Module, Group], Tensor] | None = None

    @torch.no_grad()
    def __call__(self, model: nn.Module, group: Group, /) -> Tensor:
        """Score the units of a group.

        Args:
            model: Read, never changed.
            group: Coupled units.

        Returns:
            Shape `(group.units,)`, float32.

        Raises:
            StrategyError: The group cuts no batch norm with a scale, and nothing else was given.
        """
        scales = {
            f"{name}.weight".lstrip("."): module.weight.detach().float().abs()
            for name, module in model.named_modules()
            if isinstance(module, BATCH_NORMS) and module.weight is not None
        }
        found = [
            by_unit(scales[piece.tensor], piece, group.units)
            for piece in group.slices
            if piece.tensor in scales
        ]
        if found:
            return torch.stack(found).sum(dim=0)
        if self.otherwise is None:
            raise StrategyError(
                f"group {group.name!r} cuts no batch norm with a scale; leave its layers out with "
                "ignored_layers=, or give NormScale(otherwise=importance.l2)"
            )
        return self.otherwise(model, group)
