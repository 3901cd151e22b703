"""The search of one call: bounds in, candidates and a choice out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from penjing.compression.bench import Bench
from penjing.compression.candidate import Candidate, Verdict, judge
from penjing.compression.constraints import MEASURED, Bound
from penjing.compression.search import Line, Trial, largest_within_costs, smallest_within_drop
from penjing.compression.spaces import Space
from penjing.errors import InfeasibleError


@dataclass(eq=False, slots=True)
class Job:
    """What is wanted of a bench.

    Args:
        bench: Makes candidates.
        bounds: Upper bounds by name.
        original: The network as it came.
        always_train: Fine-tune every candidate.
        may_train: Fine-tune where the drop is not permitted otherwise.
        spaces: Kinds of candidates, in the order in which they are searched.
        without_zeros: Why no candidate has zeros though the runtime gains by them; else empty.
        judged: Every candidate so far with its verdict, in the order they were tried.
        ended: Why the search ended early; empty otherwise.
    """

    bench: Bench
    bounds: Mapping[str, Bound]
    original: Candidate
    always_train: bool
    may_train: bool
    spaces: tuple[Space, ...]
    without_zeros: str = ""
    judged: dict[str, tuple[Candidate, Verdict]] = field(default_factory=dict)
    ended: str = ""

    def run(self) -> None:
        """Try candidates until the boundary is found or the time is over.

        Raises:
            InfeasibleError: An exact budget lies below what is permitted.
        """
        self.bench.progress.say("units", "judging what each is worth")
        lines = [(space, self._searched(space)) for space in self.spaces]
        if self.may_train and not self.always_train and "max_drop" in self.bounds:
            self._train(lines)

    def _searched(self, space: Space) -> Line:
        """Candidates of one kind up to the boundary."""
        ceiling = space.share(space.plan(self.bounds, 1.0))
        searched = self.measured or self.only_drop
        floor = space.floor(self.bounds) if searched else ceiling
        line = self._line(space, (floor, ceiling), self.always_train)
        if self.only_drop:
            smallest_within_drop(line)
        else:
            largest_within_costs(line)
        self.ended = self.ended or line.ended
        return line

    @property
    def measured(self) -> bool:
        """Whether a cost is bounded that is known only once it is measured."""
        return bool(set(MEASURED) & set(self.bounds))

    @property
    def only_drop(self) -> bool:
        """Whether the smallest network within a drop is looked for."""
        return set(self.bounds) == {"max_drop"}

    @property
    def chosen(self) -> tuple[Candidate, Verdict] | None:
        """The best candidate that meets every bound, if one does.

        The smallest when only the drop is bounded, else the one with the least drop.
        """
        meeting = [(c, v) for c, v in self.judged.values() if v.meets]
        if self.only_drop:
            meeting = [(c, v) for c, v in meeting if c.key != self.original.key]
            return min(meeting, key=lambda m: (self._size(m[0]), m[0].drop or 0.0), default=None)
        return min(meeting, key=lambda m: (m[0].drop or 0.0, self._size(m[0])), default=None)

    def _size(self, candidate: Candidate) -> float:
        """What makes a candidate small: latency where zeros count, which no MACs show."""
        if not self.bench.leaves_out_zeros:
            return candidate.macs
        latency = candidate.value("latency_ms")
        return float("inf") if latency is None else latency

    def _line(self, space: Space, ends: tuple[float, float], trained: bool) -> Line:
        floor, ceiling = ends
        return Line(self._trial(space, trained), min(floor, ceiling), ceiling)

    def _trial(self, space: Space, trained: bool) -> Trial:
        def trial(share: float) -> tuple[Candidate, Verdict] | None:
            plan = space.plan(self.bounds, share)
            again = trained and not self.always_train  # when every kind has had its time
            late = self.bench.clock.over if again else self._late(space)
            if late and self.judged and not self.bench.known(plan, trained=trained):
                return None
            made = self.bench.candidate(plan, self.original, trained=trained)
            if made is None:
                return None
            verdict = judge(made, self.original, self.bounds)
            self.judged[made.key] = (made, verdict)
            return made, verdict

        return trial

    def _late(self, space: Space) -> bool:
        """Whether the time is over, of which kinds that are still to come have an equal part."""
        behind = len(self.spaces) - 1 - self.spaces.index(space)
        clock = self.bench.clock
        return clock.over or clock.left < clock.limit * behind / len(self.spaces)

    def _train(self, lines: Sequence[tuple[Space, Line]]) -> None:
        """Fine-tune where that alone can bring the drop within its bound, or a smaller network."""
        chosen = self.chosen
        if chosen is not None and not self.only_drop:
            return
        tried = [(s, ln, x, made) for s, ln in lines for x, made in ln.tried.items()]
        if chosen is not None:
            same = [t for t in tried if t[3][0].key == chosen[0].key]
            space, line, share, _ = min(same, key=lambda t: t[2])
            below = self._line(space, (line.floor, share), True)
            smallest_within_drop(below)
            self.ended = self.ended or below.ended
            return
        within = [t for t in tried if t[3][1].costs_meet]
        if within:
            space, _, share, _ = min(within, key=lambda t: (t[3][0].drop or 0.0, t[2]))
            if self._trial(space, True)(share) is None:
                self.ended = "the time was over before fine-tuning was"


def refusal(job: Job) -> InfeasibleError:
    """The error of a search that found nothing: the nearest point and what stands in the way."""
    wanted = " and ".join(f"{b.name} <= {b.shown}" for b in job.bounds.values())
    candidate, verdict = min(job.judged.values(), key=lambda m: (m[1].excess, m[0].macs))
    nearest = {name: candidate.value(name) or 0.0 for name in job.bounds}
    points = ", ".join(_point(n, v, verdict) for n, v in nearest.items())
    way = "; ".join(_hindrance(job, name) for name in verdict.broken)
    count = f"{len(job.judged)} candidate{'s'[: len(job.judged) != 1]}"
    late = (
        f" The search was cut short ({job.ended}): give more minutes; with the same workdir it "
        "goes on where it was."
        if job.bench.clock.over
        else ""
    )
    return InfeasibleError(
        f"no network within {wanted} among {count}; the nearest is {candidate.name} with {points}. "
        f"In the way: {way}.{late}",
        nearest,
    )


def _point(name: str, value: float, verdict: Verdict) -> str:
    mark = "" if name not in verdict.broken else f" (limit {verdict.limits[name]:.4g})"
    return f"{name} {value:,.4g}{mark}"


def _hindrance(job: Job, name: str) -> str:
    choices = job.bench.preparation.choices
    if name == "max_drop":
        train = (
            "" if job.may_train or job.always_train else ", a task with train data to fine-tune on"
        )
        return (
            f"{job.bench.yardstick.name} falls too far; allow more, or give more calibration "
            f"data{train}"
        )
    if name in MEASURED:
        reach = job.bench.preparation.network.groups.reachable
        return (
            f"{name} does not fall as far as the cut: {reach:.0%} of the parameters can be "
            f"reached, and max_pruning_ratio={choices.max_pruning_ratio:g} ends the cut"
        )
    return f"{name} of the network that was built is above its bound"
