"""One network that was tried: what it costs, how good it is, and whether it meets the budgets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from penjing.compression.constraints import Bound
from penjing.report import CandidateFigures, ReportData

KIB = 1024  # a kB of flash or RAM is 1024 bytes, as data sheets have it
COSTS = {"macs": "macs", "params": "params", "ram_kb": "ram_bytes", "flash_kb": "size_bytes"}
SHARE_OF_KIB = frozenset({"ram_kb", "flash_kb"})


@dataclass(frozen=True, slots=True)
class Candidate:
    """One finished candidate; everything about it is on disk.

    Args:
        name: What a reader calls it, unique among the candidates of one search.
        key: Hash of all that decides what it is.
        data: Its figures, repair and proof, `after` being the candidate.
        metric: The figure that `max_drop` is about.
        drop: How much worse than the original, absolute; negative when it is better.
        trained: Whether it was fine-tuned.
        seconds: Time it took.
        folder: Where it is.
    """

    name: str
    key: str
    data: ReportData
    metric: float | None
    drop: float | None
    trained: bool
    seconds: float
    folder: Path

    @property
    def macs(self) -> int:
        """Multiply-accumulates at batch one."""
        assert self.data.after is not None  # every candidate is counted
        return self.data.after.macs

    @property
    def speedup(self) -> float | None:
        """Latency of the original over its own, both timed alternating; None when not timed."""
        latency = self.data.after.latency if self.data.after else None
        return latency.ratio if latency else None

    def value(self, name: str) -> float | None:
        """What the candidate has of the cost or drop that constraint `name` bounds, in its unit."""
        if name == "max_drop":
            return self.drop
        after = self.data.after
        if name == "latency_ms":
            return after.latency_ms if after else None
        found = getattr(after, COSTS[name])
        if found is None:
            return None
        return float(found) / KIB if name in SHARE_OF_KIB else float(found)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A candidate against the bounds.

    Args:
        usage: Constraint name -> value over limit; above 1 breaks the bound.
        limits: Constraint name -> absolute limit.
        slower: Latency is bounded and the candidate is slower than the original.
    """

    usage: Mapping[str, float]
    limits: Mapping[str, float]
    slower: bool = False

    @property
    def broken(self) -> tuple[str, ...]:
        """Names of the bounds that do not hold."""
        names = [name for name, used in self.usage.items() if not used <= 1]
        if self.slower and "latency_ms" not in names:
            names.append("latency_ms")
        return tuple(names)

    @property
    def meets(self) -> bool:
        """Whether every bound holds."""
        return not self.broken

    @property
    def costs_meet(self) -> bool:
        """Whether every bound but the drop holds."""
        return not set(self.broken) - {"max_drop"}

    @property
    def tightest(self) -> float:
        """Largest usage of a measured cost; 0 when none is bounded."""
        return max((u for n, u in self.usage.items() if n in {"latency_ms", "flash_kb"}), default=0)

    @property
    def excess(self) -> float:
        """How far the candidate is from meeting all bounds; 0 when it does."""
        over = sum(max(0.0, used - 1) for used in self.usage.values())
        return over + (1.0 if self.slower else 0.0)


LEAST_DROP = 1e-3  # a drop beyond its bound is weighed in units of the bound, at least this


def judge(candidate: Candidate, original: Candidate, bounds: Mapping[str, Bound]) -> Verdict:
    """Compare a candidate with the bounds.

    Args:
        candidate: What was measured.
        original: The network it was made from, measured in the same way.
        bounds: By constraint name.

    Returns:
        The verdict. A latency in percent is judged by the paired ratio, which cancels drift; a
        candidate slower than the original breaks any bound on latency.
    """
    usage, limits = dict[str, float](), dict[str, float]()
    for name, bound in bounds.items():
        limits[name] = bound.limit(original.value(name) or 0.0)
        usage[name] = _usage(candidate, name, bound, limits[name])
    cut = candidate.key != original.key
    speedup = candidate.speedup
    slower = "latency_ms" in bounds and cut and speedup is not None and speedup < 1
    return Verdict(usage, limits, slower)


def _usage(candidate: Candidate, name: str, bound: Bound, limit: float) -> float:
    value = candidate.value(name)
    if value is None or value != value:
        return float("inf")
    if name == "max_drop":
        return 1 + (value - limit) / max(limit, LEAST_DROP)
    if name == "latency_ms" and bound.relative and candidate.speedup:
        return 1 / candidate.speedup / bound.value
    return value / limit if limit > 0 else float("inf")


def row(candidate: Candidate, verdict: Verdict, chosen: bool) -> CandidateFigures:
    """The candidate as a row of the report."""
    after = candidate.data.after
    assert after is not None  # every candidate is counted
    return CandidateFigures(
        name=candidate.name,
        macs=after.macs,
        params=after.params,
        size_bytes=after.size_bytes,
        latency_ms=after.latency_ms,
        speedup=candidate.speedup,
        metric=candidate.metric,
        drop=candidate.drop,
        kept=chosen,
        meets=verdict.meets,
        seconds=candidate.seconds,
        note=_note(candidate, verdict),
    )


def _note(candidate: Candidate, verdict: Verdict) -> str:
    parts = []
    if candidate.trained:
        parts.append(f"fine-tuned for {len(candidate.data.epochs)} epochs")
    if verdict.slower:
        parts.append(f"slower than the original ({candidate.speedup:.2f}x)")
    if verdict.broken:
        parts.append("breaks " + ", ".join(verdict.broken))
    return "; ".join(parts)
