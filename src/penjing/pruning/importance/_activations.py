"""Importance by what a unit puts out on data, as the layers that read it see it.

Suffixes as in `maps`, and K = bins, L = labels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from penjing.errors import StrategyError
from penjing.graph.network import Network
from penjing.plan import Group
from penjing.pruning.importance.maps import Seen, seen_by_readers, watch
from penjing.pruning.importance.scores import Scores, without_data
from penjing.pruning.importance.sums import squared_norms
from penjing.task import Calibration

Statistic = Literal["nonzero", "mean", "entropy", "information", "rank", "independence"]

BINNED = ("entropy", "information")
PER_BIN = 2  # samples per bin below which a histogram says nothing
UNREAD = (
    "no layer with a stored weight reads these units, or only convolutions in groups do; ordered "
    "by magnitude"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Activations:
    """A statistic of every unit's activations, where the layers that read the unit read it.

    Units that several layers read are judged by the mean over them. Groups that no layer with a
    stored weight reads, or only convolutions in groups, are ordered by magnitude, and `prune` says
    so in its report.

    Args:
        statistic: "nonzero" is the share of values that are not zero (one minus APoZ); "mean" the
            mean absolute value; "entropy" that of the distribution over samples of the unit's mean
            value, in bins; "information" what that mean value tells about the label, in bits;
            "rank" the mean rank of its map; "independence" how much the nuclear norm of all maps of
            a sample falls without its own.
        samples: Samples at most, the first ones of the calibration data.
        bins: Of the histograms, equally wide between the smallest and the largest value.

    Raises:
        StrategyError: A setting is outside its range.

    Source:
        Hu et al. 2016, arXiv:1607.03250 (APoZ); Luo and Wu 2017, arXiv:1706.05791 (entropy);
        information with the label as the filter of Peng et al. 2005 (max-relevance); Lin et al.
        2020, arXiv:2002.10179 (HRank); Sui et al. 2021, arXiv:2110.13981 (CHIP).
    """

    statistic: Statistic
    samples: int = 500
    bins: int = 16

    def __post_init__(self) -> None:
        if self.statistic not in _STATISTICS:
            raise StrategyError(
                f"activations: statistic is {self.statistic!r}; known are "
                f"{', '.join(map(repr, _STATISTICS))}"
            )
        if self.samples < 2 or self.bins < 2:
            raise StrategyError(
                f"activations: samples is {self.samples} and bins {self.bins}; both are at least 2"
            )

    def __call__(self, model: nn.Module, group: Group, /) -> Tensor:  # noqa: ARG002 - the protocol's
        """Always refuses: there are no activations without data.

        Raises:
            StrategyError: Always; `prepare` gives the importance that can be called.
        """
        raise without_data(f"activations ({self.statistic})")

    def prepare(self, network: Network, calibration: Calibration) -> Scores:
        """Run the samples once and score the units of every group.

        Args:
            network: The captured network; the model behind it is not changed.
            calibration: Samples, with labels for "information".

        Returns:
            An importance for the groups of `network`.

        Raises:
            StrategyError: Labels are missing, or there are too few samples for the bins.
        """
        self._check_enough(calibration)
        places = seen_by_readers(network, network.groups)
        gathered = self._gather(network, calibration, places)
        scores, reasons = {}, {}
        for group in network.groups:
            parts = gathered[group.name]
            if not parts:
                reasons[group.name] = UNREAD
                scores[group.name] = squared_norms(network.program, group)
                continue
            found = [_STATISTICS[self.statistic].finish(part, self.bins) for part in parts]
            scores[group.name] = torch.stack(found).mean(0).clamp_min(0).float()
        return Scores(self.statistic, scores, reasons)

    def _check_enough(self, calibration: Calibration) -> None:
        wanted = PER_BIN * self.bins if self.statistic in BINNED else 1
        have = min(calibration.samples, self.samples)
        if have < wanted:
            raise StrategyError(
                f"{self.statistic} with {self.bins} bins needs at least {wanted} samples and looks "
                f"at {have}; give more calibration data or fewer bins"
            )

    def _gather(
        self, network: Network, calibration: Calibration, places: Mapping[str, Sequence[Seen]]
    ) -> dict[str, list[list[Tensor]]]:
        """Per group and place the pieces of the statistic, one per batch."""
        found: dict[str, list[list[Tensor]]] = {n: [[] for _ in p] for n, p in places.items()}
        at: dict[str, list[tuple[str, int, Seen]]] = {}
        for name, seen in places.items():
            for number, place in enumerate(seen):
                at.setdefault(place.node, []).append((name, number, place))
        look = _STATISTICS[self.statistic].look

        def see(node: str, value: Tensor, labels: Any) -> None:
            for name, number, place in at[node]:
                found[name][number].append(look(place.of(value.float()), labels))

        needs = "mutual_information" if self.statistic == "information" else ""
        if at:
            watch(network.program, calibration, at, see, self.samples, needs)
        return found


@dataclass(frozen=True, slots=True)
class _Statistic:
    """How a statistic is gathered and concluded.

    Args:
        look: From the values of one batch `(B, U, M, *positions)` and its labels to a piece.
        finish: From all pieces and the number of bins to a score per unit.
    """

    look: Callable[[Tensor, Any], Tensor]
    finish: Callable[[list[Tensor], int], Tensor]


def _mean_of_rows(pieces: list[Tensor], bins: int) -> Tensor:  # noqa: ARG001 - the others' argument
    """Mean over samples of pieces `(B, U)`."""
    return torch.cat(pieces).double().mean(0)


def _nonzero(value: Tensor, labels: Any) -> Tensor:  # noqa: ARG001 - the others' argument
    return (value != 0).flatten(2).double().mean(2)


def _size(value: Tensor, labels: Any) -> Tensor:  # noqa: ARG001 - the others' argument
    return value.abs().flatten(2).double().mean(2)


def _average(value: Tensor, labels: Any) -> Tensor:  # noqa: ARG001 - the others' argument
    return value.flatten(2).double().mean(2)


def _average_and_label(value: Tensor, labels: Any) -> Tensor:
    """Mean value per unit, with the label as one more column."""
    if not isinstance(labels, Tensor) or labels.shape != value.shape[:1]:
        raise StrategyError(
            "information needs one class label per sample, a vector of integers; got "
            f"{tuple(labels.shape) if isinstance(labels, Tensor) else type(labels).__name__}"
        )
    own = _average(value, labels)
    return torch.cat([own, labels.to(own)[:, None]], dim=1)


def _map_ranks(value: Tensor, labels: Any) -> Tensor:  # noqa: ARG001 - the others' argument
    """Rank of every map; of three dimensions the first two are rows, without two there is one."""
    rows = value.reshape(*value.shape[:2], -1, value.shape[-1])
    ranks: Tensor = torch.linalg.matrix_rank(rows)
    return ranks.double()


def _nuclear_losses(value: Tensor, labels: Any) -> Tensor:  # noqa: ARG001 - the others' argument
    """Fall of the nuclear norm of a sample's units-by-positions matrix without each unit."""
    a_BUS = value.flatten(2).double()
    if a_BUS.shape[2] == 1:  # one value per unit: samples are the positions
        a_BUS = a_BUS.permute(2, 1, 0)
    gram_BUU = a_BUS @ a_BUS.mT
    units = gram_BUU.shape[1]
    falls = torch.empty(gram_BUU.shape[:2], dtype=torch.float64)
    whole = _nuclear(gram_BUU)
    others = torch.arange(units)
    for unit in range(units):
        rest = others[others != unit]
        falls[:, unit] = whole - _nuclear(gram_BUU[:, rest][:, :, rest])
    return falls


def _nuclear(gram: Tensor) -> Tensor:
    """Sum of the singular values of A, from A Aᵀ."""
    squares: Tensor = torch.linalg.eigvalsh(gram)
    return squares.clamp_min(0).sqrt().sum(-1)


def _binned(values_BU: Tensor, bins: int) -> Tensor:
    """Number of the bin of every value, between the smallest and the largest of its unit."""
    low, high = values_BU.amin(0), values_BU.amax(0)
    share = (values_BU - low) / (high - low).clamp_min(torch.finfo(values_BU.dtype).tiny)
    return (share * bins).long().clamp_max(bins - 1)


def _bits(shares: Tensor) -> Tensor:
    """Entropy of distributions in the last dimension."""
    return -(shares * shares.clamp_min(torch.finfo(shares.dtype).tiny).log2()).sum(-1)


def _entropy(pieces: list[Tensor], bins: int) -> Tensor:
    at_BU = _binned(torch.cat(pieces), bins)
    return _bits(nn.functional.one_hot(at_BU, bins).double().mean(0))


def _information(pieces: list[Tensor], bins: int) -> Tensor:
    """H(bin) - H(bin | label), in bits."""
    rows = torch.cat(pieces)
    hot_BUK = nn.functional.one_hot(_binned(rows[:, :-1], bins), bins).double()
    labels, left = rows[:, -1], _bits(hot_BUK.mean(0))
    for label in labels.unique():
        mine = labels == label
        left = left - mine.double().mean() * _bits(hot_BUK[mine].mean(0))
    return left


_STATISTICS: Mapping[str, _Statistic] = {
    "nonzero": _Statistic(_nonzero, _mean_of_rows),
    "mean": _Statistic(_size, _mean_of_rows),
    "entropy": _Statistic(_average, _entropy),
    "information": _Statistic(_average_and_label, _information),
    "rank": _Statistic(_map_ranks, _mean_of_rows),
    "independence": _Statistic(_nuclear_losses, _mean_of_rows),
}
