"""What the reader of a report must know of a cut, in words."""

from __future__ import annotations

from torch import nn

from penjing.graph.capture import Program
from penjing.graph.experts import run_anew
from penjing.graph.form import held_sizes, spelled
from penjing.plan import Group
from penjing.pruning.allocation.space import options, units_dropped
from penjing.pruning.pretrained import describe_config
from penjing.verbs.goal import Goal
from penjing.verbs.preparation import Preparation
from penjing.verbs.runs_whole import runs_whole
from penjing.verbs.work import Work

TOLD = 3  # groups that a note names
TOLD_OF_EXPERTS = (
    "the experts now run as experts_implementation='batched_mm': torch's grouped product takes "
    "rows of whole 16 bytes only (round_to=4, or 8 in half precision, leaves such)"
)
PLAIN_RANK = 2  # rows of features, whose number no network leaves open


def remarks(original: nn.Module, work: Work, goal: Goal) -> tuple[str, ...]:
    """What came out otherwise than a reader would think.

    Args:
        original: The network, on the CPU.
        work: What became of it.
        goal: What was asked for.
    """
    return (
        *runs_whole(original),
        *_told_of(original, work),
        *_nearest_legal(work.preparation, goal),
        *_judged_otherwise(work),
    )


def _told_of(original: nn.Module, work: Work) -> tuple[str, ...]:
    """What the reader must know about the form of the result."""
    seed = work.preparation.choices.seed
    told = (
        *_batch_elsewhere(work.network.program),
        *_sizes_held(work),
        *describe_config(original, work.model, work.cut, seed),
    )
    return (*told, TOLD_OF_EXPERTS) if run_anew(original, work.model) else told


def _batch_elsewhere(program: Program) -> tuple[str, ...]:
    """Where the batch is, in words, when it is not in dimension 0 of every input."""
    dims = [dim for dim in program.batch_dims if dim is not None]
    if not any(dims):
        return ()
    places = f"dimension {dims[0]}" if len(set(dims)) == 1 else f"dimensions {dims} of the inputs"
    return (f"the batch is in {places}; calibration data has it there too",)


def _sizes_held(work: Work) -> tuple[str, ...]:
    """Input sizes that a graph form holds fixed, in words."""
    if work.proof.form != "graph":
        return ()
    program = work.cut.program
    held = held_sizes(program).items()
    told = []
    if not program.dynamic_batch:
        told.append(
            f"the network was captured with its batch of {program.batch} fixed, since its forward "
            "writes the batch into the graph"
        )
    fixed = [
        spelled(name, sizes) for name, sizes in held if len(sizes) > PLAIN_RANK or None not in sizes
    ]
    if fixed:
        told.append(
            f"the graph form holds the example's sizes fixed: it takes {', '.join(fixed)}; for "
            "another size, prune with an example of that size"
        )
    return tuple(told)


def _nearest_legal(preparation: Preparation, goal: Goal) -> tuple[str, ...]:
    """Groups that could not lose the share asked for, in words, with the share that they lost."""
    if goal.plan is not None:
        return ()
    demand = goal.demand(preparation, goal.steps)
    shared = demand.pruning_ratio if preparation.strategies.allocation_name == "uniform" else None
    rows = []
    for group in preparation.groups:
        asked = demand.ratios.get(group.name, shared)
        step = demand.step(group.name)
        least = int(options(group.units, demand, step=step, least=group.least)[0])
        if asked is not None and group.units - units_dropped(group.units, asked) < least:
            share = 1 - least / group.units
            rows.append(
                f"{group.name!r} {share:.3g} of its {group.units} units (asked {asked:.3g}"
                f"{_coupled(group)}"
                f"{f'; {group.least_why}' if least == group.least > 1 else ''})"
            )
    if not rows:
        return ()
    more = f" and {len(rows) - TOLD} more" if len(rows) > TOLD else ""
    return (
        "a group keeps one whole unit at least, and as many as round_to and max_pruning_ratio say; "
        f"the nearest share was taken for {', '.join(rows[:TOLD])}{more}",
    )


def _coupled(group: Group) -> str:
    """How many positions of a tensor one unit is, where that is more than one."""
    first = next(iter(group.slices), None)
    count = 1 if first is None else len(first.positions(0))
    if first is None or count == 1:
        return ""
    return f"; a unit is {count} positions in dim {first.dim} of {first.tensor!r}"


def _judged_otherwise(work: Work) -> tuple[str, ...]:
    """Groups that the importance could not judge in its own way, in words, with the reason."""
    judge = work.preparation.strategies.importance_name
    groups: dict[str, list[str]] = {}
    for name, reason in ({} if work.given else work.preparation.reasons).items():
        groups.setdefault(reason, []).append(repr(name))
    return tuple(
        f"the importance {judge!r} did not judge every group in its own way: "
        f"{', '.join(names[:TOLD])}"
        f"{f' and {len(names) - TOLD} more' if len(names) > TOLD else ''}: {reason}"
        for reason, names in groups.items()
    )
