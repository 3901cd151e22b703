"""What the network that is given back has kept at every step: cut, repaired, fine-tuned."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from penjing.compression.candidate import Candidate
from penjing.compression.job import Job
from penjing.plan import Plan
from penjing.task import Recovered, chained, random_kept
from penjing.verbs.judging import CUT, REPAIRED
from penjing.verbs.work import one_cut, repairs, unrepaired

TUNED = "fine-tuned"

Figures = Mapping[str, float]


def recovered(
    job: Job, chosen: Candidate, network: nn.Module, on_test: tuple[Figures, Figures] | None
) -> tuple[Recovered, ...]:
    """Figures of every step on the data that candidates were compared on, and on test data.

    The steps that are on no disk are made again from the plan; a candidate depends on nothing else.

    Args:
        job: A finished search.
        chosen: The candidate that is given back.
        network: Its network, on the CPU.
        on_test: What the original and `network` have there; None without test data.

    Returns:
        A row per split, step and figure; nothing where nothing was cut.
    """
    if chosen.key == job.original.key:
        return ()
    bench = job.bench
    bench.progress.say("recovery", "judging every step")
    with random_kept():
        torch.manual_seed(bench.fitting.seed)
        steps = _steps(job, chosen, network)
        split = "val" if bench.yardstick.held_out is None else "held-out calibration"
        known = {network: chosen.data.metrics_after}
        rows = chained(
            split,
            job.original.data.metrics_after,
            _judged(job, steps, bench.yardstick.measure, known),
        )
        task = bench.yardstick.task
        if on_test is None or task is None:
            return rows
        before, after = on_test
        judged = _judged(job, steps, lambda net: task.evaluate(net, "test"), {network: after})
    return (*rows, *chained("test", before, judged))


def _steps(job: Job, chosen: Candidate, network: nn.Module) -> dict[str, nn.Module]:
    """The network after every step, by its name."""
    bench, preparation = job.bench, job.bench.preparation
    plan = Plan.from_json((chosen.folder / "plan.json").read_text(encoding="utf-8"))
    steps: dict[str, nn.Module] = {}
    mended = repairs(preparation, plan)
    if mended:
        steps[CUT] = unrepaired(preparation, plan)
    name = REPAIRED if mended else CUT
    if not chosen.trained:
        return {**steps, name: network}
    if bench.known(plan, trained=False):
        found = bench.candidate(plan, job.original, trained=False)
        assert found is not None  # it is finished
        before = bench.network(found)
    else:
        before = one_cut(preparation, plan).model.eval()
    return {**steps, name: before, TUNED: network}


def _judged(
    job: Job,
    steps: Mapping[str, nn.Module],
    judge: Callable[[nn.Module], Figures],
    known: Mapping[nn.Module, Figures],
) -> dict[str, Figures]:
    """Figures of every step; a network is on the device of the original while it is judged."""
    found = {}
    for name, model in steps.items():
        if model in known:
            found[name] = known[model]
            continue
        found[name] = judge(model.to(job.bench.home))
        model.cpu()
    return found
