"""The search of one call: bounds in, candidates and a choice out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from penjing.compression.bench import Bench
from penjing.compression.candidate import Candidate, Verdict, judge
from penjing.compression.constraints import EXACT, MEASURED, Bound
from penjing.compression.search import Line, Trial, largest_within_costs, smallest_within_drop
from penjing.errors import InfeasibleError
from penjing.plan import Plan

LEAST = 1e-9  # of the original's MACs: a bound that only the smallest network comes near


@dataclass(eq=False, slots=True)
class Job:
    """What is wanted of a bench.

    Args:
        bench: Makes candidates.
        bounds: Upper bounds by name.
        original: The network as it came.
        always_train: Fine-tune every candidate.
        may_train: Fine-tune where the drop is not permitted otherwise.
        judged: Every candidate so far with its verdict, in the order they were tried.
        ended: Why the search ended early; empty otherwise.
    """

    bench: Bench
    bounds: Mapping[str, Bound]
    original: Candidate
    always_train: bool
    may_train: bool
    judged: dict[str, tuple[Candidate, Verdict]] = field(default_factory=dict)
    ended: str = ""

    def run(self) -> None:
        """Try candidates until the boundary is found or the time is over.

        Raises:
            InfeasibleError: An exact budget lies below what is permitted.
        """
        self.bench.progress.say("units", "judging what each is worth")
        top = self.plan(1.0)
        ceiling = self._share(top)
        searched = self.measured or self.only_drop
        line = self._line(self.floor() if searched else ceiling, ceiling, self.always_train)
        if self.only_drop:
            smallest_within_drop(line)
        else:
            largest_within_costs(line)
        self.ended = line.ended
        if self.may_train and not self.always_train and "max_drop" in self.bounds:
            self._train(line)

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
            return min(meeting, key=lambda m: (m[0].macs, m[0].drop or 0.0), default=None)
        return min(meeting, key=lambda m: (m[0].drop or 0.0, m[0].macs), default=None)

    def plan(self, share: float) -> Plan:
        """The allocation's answer within the exact budgets and a share of the original's MACs."""
        preparation = self.bench.preparation
        original = preparation.original
        budgets = {n: b.limit(original[n]) for n, b in self.bounds.items() if n in EXACT}
        if share < 1:
            budgets["macs"] = min(share * original["macs"], budgets.get("macs", float("inf")))
        return preparation.plan(preparation.demand(budgets=budgets or {"macs": original["macs"]}))

    def floor(self) -> float:
        """Smallest share of the original's MACs that the choices permit."""
        try:
            return self._share(self.plan(LEAST))
        except InfeasibleError as error:
            nearest = error.nearest.get("macs", self.bench.preparation.original["macs"])
            # just above, so that rounding to a point of the line stays permitted
            return nearest / self.bench.preparation.original["macs"] + 1e-4

    def _share(self, plan: Plan) -> float:
        preparation = self.bench.preparation
        kept = {g.name: len(plan.kept(g.name)) for g in preparation.groups}
        return preparation.costs["macs"](kept) / preparation.original["macs"]

    def _line(self, floor: float, ceiling: float, trained: bool) -> Line:
        return Line(self._trial(trained), min(floor, ceiling), ceiling)

    def _trial(self, trained: bool) -> Trial:
        def trial(share: float) -> tuple[Candidate, Verdict] | None:
            plan = self.plan(share)
            if (
                self.bench.clock.over
                and self.judged
                and not self.bench.known(plan, trained=trained)
            ):
                return None
            made = self.bench.candidate(plan, self.original, trained=trained)
            if made is None:
                return None
            verdict = judge(made, self.original, self.bounds)
            self.judged[made.key] = (made, verdict)
            return made, verdict

        return trial

    def _train(self, line: Line) -> None:
        """Fine-tune where that alone can bring the drop within its bound, or a smaller network."""
        chosen = self.chosen
        if chosen is not None and not self.only_drop:
            return
        if chosen is not None:
            share = min(s for s, made in line.tried.items() if made[0].key == chosen[0].key)
            below = self._line(line.floor, share, True)
            smallest_within_drop(below)
            self.ended = self.ended or below.ended
            return
        within = [(made, share) for share, made in line.tried.items() if made[1].costs_meet]
        if within:
            best = min(within, key=lambda w: (w[0][0].drop or 0.0, w[1]))
            if self._trial(True)(best[1]) is None:
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
