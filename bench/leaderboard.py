"""Which method leaves the most accuracy in the same minutes?

    python bench/leaderboard.py --method obs --network resnet20 --board weights --level 0.9 --seed 0
    python bench/leaderboard.py --preset minutes        the next missing row of a small board
    python bench/leaderboard.py --preset night --all    row after row until stopped, about 10 hours
    python bench/leaderboard.py --preset nights --all   all levels and seeds, five minutes a row
    python bench/leaderboard.py --method my.module:function --preset minutes --all --out mine/

One row is one method, network, board, level and seed. Board "units" cuts to 1/level of the MACs,
board "weights" makes a share `level` of the inner weights zero. Every method has the same minutes,
process time on one thread: what it does not use itself goes into distillation from the dense
network with the same settings for all. It ranks by accuracy on validation data, which no method
sees; the test set is looked at once per row and decides nothing. "random", "uniform" (equal shares
by L1, no repair) and "dense" are always on the board.

With `--out` the rows lie in that folder, with a page (leaderboard.md) and a plot (leaderboard.svg)
of them that are written anew after every row. Without it they join the committed ones, of which
`python bench/page.py` makes docs/benchmarks.md. What is there is not done again.

A method of your own is a function of a `Contest` that returns a network:

    def mine(contest):
        return pj.prune(contest.model, contest.example, constraints=contest.constraints,
                        importance=..., calibration=[contest.inputs]).model
"""

from __future__ import annotations

import argparse
import copy
import importlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import penjing as pj
from penjing.files import write_text
from penjing.training import Callback
from penjing.training.run import Run
from record import RESULTS, Record, peak_mb
from tables.leaderboard import leaderboard_picture, leaderboard_tables
from tables.rows import Rows
from workloads import Workload, workload

LEVELS = {"units": (1.5, 2.0, 3.0), "weights": (0.7, 0.8, 0.9, 0.95)}
SAMPLES = 1000  # to calibrate; at most half of what a network has
BATCH = 64
EPOCHS = 1000  # of distillation; the minutes end it
LR = 3e-4  # of AdamW; the usual for a trained network that was cut
SLACK = 1.1  # a step that has begun is finished
ALWAYS = ("dense", "random", "uniform")


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A board: every method, network, level and seed of it is a row."""

    networks: tuple[str, ...]
    levels: dict[str, tuple[float, ...]]
    seeds: tuple[int, ...]
    minutes: float
    methods: dict[str, tuple[str, ...]]


@dataclass(frozen=True, eq=False, kw_only=True)
class Contest:
    """What a method is given. The clock starts when it is made.

    Args:
        model: The dense network.
        inputs: Calibration samples.
        labels: Their labels.
        train: Inputs and labels to train on: all but those that validate and test.
        board: "units" or "weights".
        level: Factor of fewer MACs, or share of zeros among the inner weights.
        seed: Of everything random, the data included.
        minutes: Process time for everything.
    """

    model: nn.Module
    inputs: Tensor
    labels: Tensor
    train: tuple[Tensor, Tensor]
    board: str
    level: float
    seed: int
    minutes: float
    started: float = field(default_factory=time.process_time)

    @classmethod
    def of(cls, job: Workload, board: str, level: float, seed: int, minutes: float) -> Contest:
        """A contest on one network; its data are drawn before the clock starts."""
        inputs, labels = job.examples(seed, min(SAMPLES, job.pool // 2))
        train = job.examples(seed, job.pool - job.held)
        return cls(
            model=job.model, inputs=inputs, labels=labels, train=train, board=board, level=level,
            seed=seed, minutes=minutes,
        )  # fmt: skip

    @property
    def example(self) -> Tensor:
        """One input."""
        return self.inputs[:1]

    @property
    def spent(self) -> float:
        """Seconds since the start."""
        return time.process_time() - self.started

    @property
    def over(self) -> bool:
        """Whether the minutes are over."""
        return self.spent >= 60 * self.minutes

    @property
    def keep_dense(self) -> tuple[str, ...]:
        """Layers that stay dense on board "weights": not the first where it is nearly all."""
        recurrent = any(isinstance(m, nn.RNNBase) for m in self.model.modules())
        return ("last", "depthwise") if recurrent else ("first", "last", "depthwise")

    @property
    def constraints(self) -> dict[str, str]:
        """The level of board "units", for `prune`."""
        return {"macs": f"{100 / self.level}%"}


Method = Callable[[Contest], nn.Module]


def cut(importance: str, allocation: str, repair: str | None = "least_squares") -> Method:
    """A method of board "units" or "weights", by the same three names."""

    def method(contest: Contest) -> nn.Module:
        how = {
            "calibration": [(contest.inputs, contest.labels)],
            "importance": importance,
            "allocation": allocation,
            "repair": repair,
            "seed": contest.seed,
        }
        if contest.board == "weights":
            how |= {"sparsity": contest.level, "keep_dense": contest.keep_dense}
            return pj.sparsify(contest.model, contest.example, **how).model
        return pj.prune(
            contest.model, contest.example, constraints=contest.constraints, scope={"inner"}, **how
        ).model

    return method


def dense(contest: Contest) -> nn.Module:
    """The network as it is: the ceiling."""
    return contest.model


METHODS: dict[str, dict[str, Method]] = {
    "units": {
        "dense": dense,
        "random": cut("random", "uniform", None),
        "uniform": cut("l1", "uniform", None),
        "random + repair": cut("random", "uniform"),
        "l2": cut("l2", "global"),
        "lamp": cut("l2", "lamp"),
        "taylor": cut("taylor", "global"),
        "fisher": cut("fisher", "global"),
        "sensitivity": cut("sensitivity", "sensitivity"),
        "obs": cut("obs", "dp"),
        "obs, tuned": cut("obs", "dp", "tune"),
        "obs + netadapt": cut("obs", "netadapt"),
        "obs + local search": cut("obs", "local_search"),
        "obs + genetic": cut("obs", "genetic"),
        "obs + reinforcement": cut("obs", "reinforcement"),
    },
    "weights": {
        "dense": dense,
        "random": cut("random", "uniform", None),
        "uniform": cut("magnitude", "uniform", None),
        "random + repair": cut("random", "erk"),
        "magnitude": cut("magnitude", "global"),
        "erk": cut("magnitude", "erk"),
        "lamp": cut("magnitude", "lamp"),
        "wanda": cut("wanda", "uniform"),
        "fisher": cut("fisher", "global"),
        "synflow": cut("synflow", "global"),
        "obs": cut("obs", "dp"),
        "obs, tuned": cut("obs", "dp", "tune"),
    },
}

NETWORKS = ("resnet20", "kws", "digits", "text")
MORE = ("resnet56", "ic", "vww")  # on no preset
ALL = {board: tuple(methods) for board, methods in METHODS.items()}
FEW = {
    "units": (*ALWAYS, "l2", "obs"),
    "weights": (*ALWAYS, "magnitude", "obs"),
}
PRESETS = {
    "minutes": Preset(
        networks=("kws", "digits", "text"),
        levels={"units": (2.0,), "weights": (0.9,)},
        seeds=(0,),
        minutes=0.3,
        methods=FEW,
    ),
    "night": Preset(
        networks=NETWORKS,
        levels={"units": (2.0, 3.0), "weights": (0.8, 0.9)},
        seeds=(0, 1),
        minutes=1.5,
        methods=ALL,
    ),
    "nights": Preset(networks=NETWORKS, levels=LEVELS, seeds=(0, 1, 2), minutes=5.0, methods=ALL),
}


def found(board: str, name: str) -> Method:
    """A method by its name on the board, or as package.module:function."""
    if ":" not in name:
        if name not in METHODS[board]:
            raise SystemExit(
                f"no method of board {board!r} is called {name!r}; known are "
                f"{', '.join(METHODS[board])}; your own is given as package.module:function"
            )
        return METHODS[board][name]
    module, _, attribute = name.partition(":")
    try:
        method = getattr(importlib.import_module(module), attribute, None)
    except ModuleNotFoundError as error:
        raise SystemExit(
            f"{name!r} was not found ({error}); give package.module:function of something that "
            "Python can import: PYTHONPATH=folder python bench/leaderboard.py ..."
        ) from error
    if not callable(method):
        raise SystemExit(f"{name!r} is no function; give package.module:function")
    return method


def row(job: Workload, contest: Contest, name: str) -> dict:
    """Let a method play, spend what is left on distillation, judge."""
    own_copy = replace(contest, model=copy.deepcopy(contest.model))  # which it may change
    network = found(contest.board, name)(own_copy)
    if not isinstance(network, nn.Module):
        raise SystemExit(f"method {name!r} gave a {type(network).__name__}, not a network")
    own = contest.spent
    if name != "dense" and not contest.over:
        network = distilled(contest, network)
    seconds = contest.spent
    x, y = job.validation(contest.seed)
    first, last = (pj.measure(m, contest.example, latency=False) for m in (contest.model, network))
    return {
        "method": name,
        "network": job.name,
        "board": contest.board,
        "level": contest.level,
        "seed": contest.seed,
        "minutes": contest.minutes,
        "validation": 100 * share(network, x, y),
        "validation_dense": 100 * share(contest.model, x, y),
        "test": 100 * job.quality(job.correct(network)),
        "method_seconds": own,
        "seconds": seconds,
        "in_time": seconds <= 60 * contest.minutes * SLACK,
        "fewer_macs": first.macs / last.macs,
        "zeros": 1 - last.nonzero / last.params,
        "peak_mb": peak_mb(),
        "validation_samples": len(y),
        "split": job.split,
    }


class Whistle(Callback):
    """Ends a training when the minutes are over."""

    def __init__(self, contest: Contest) -> None:
        self.contest = contest

    def on_step(self, run: Run, /) -> None:
        """Look at the clock."""
        if self.contest.over:
            run.stop("the minutes are over")


def distilled(contest: Contest, network: nn.Module) -> nn.Module:
    """The network after the minutes that are left of distillation from the dense one."""
    x, y = contest.train
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(x, y), BATCH, shuffle=True,
        generator=torch.Generator().manual_seed(contest.seed),
    )  # fmt: skip
    task = pj.Task(train=loader, loss=F.cross_entropy)
    tuned = pj.finetune(
        network, task, teacher=contest.model, epochs=EPOCHS, lr=LR, schedule="constant",
        callbacks=[Whistle(contest)], seed=contest.seed, progress=False,
    )  # fmt: skip
    return tuned.model


@torch.inference_mode()
def share(network: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of right decisions."""
    network.eval()
    right = sum(
        int((network(a).argmax(1) == b).sum())
        for a, b in zip(x.split(250), y.split(250), strict=True)
    )
    return right / len(y)


def fits(board: str, level: float) -> bool:
    """Whether a board has such a level: a factor above 1, or a share below it."""
    return level > 1 if board == "units" else 0 < level < 1


def wanted(
    given: argparse.Namespace, boards: Sequence[str]
) -> Iterator[tuple[str, str, float, int, str]]:
    """Rows that are asked for, in the order in which they are worth having."""
    preset = PRESETS[given.preset]
    for seed, board, network in product(
        [given.seed] if given.seed is not None else preset.seeds,
        boards,
        [given.network] if given.network else preset.networks,
    ):
        levels = [given.level] if given.level else preset.levels[board]
        methods = (*ALWAYS, given.method) if given.method else preset.methods[board]
        for level, method in product(levels, dict.fromkeys(methods)):
            yield network, board, level, seed, method


def show(rows: Rows, folder: Path) -> None:
    """A page and a plot of the rows, beside them."""
    write_text(folder / "leaderboard.md", leaderboard_tables(rows, "leaderboard.svg") + "\n")
    write_text(folder / "leaderboard.svg", leaderboard_picture(rows))


def main() -> None:
    """Do the next missing row, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=sorted(PRESETS), default="minutes")
    parser.add_argument("--method", help="a name, or package.module:function")
    parser.add_argument("--network", choices=(*NETWORKS, *MORE))
    parser.add_argument("--board", choices=sorted(LEVELS))
    parser.add_argument("--level", type=float)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--minutes", type=float, help="instead of the preset's")
    parser.add_argument("--all", action="store_true", help="go on with the next row")
    parser.add_argument("--out", type=Path, help="a folder for rows, page and plot")
    parser.add_argument("--list", action="store_true", help="say what is missing and stop")
    given = parser.parse_args()
    asked = [given.board] if given.board else LEVELS
    boards = [b for b in asked if given.level is None or fits(b, given.level)]
    if not boards:
        parser.error(
            f"--level is {given.level}; board units has factors above 1, board weights shares of "
            "zeros below 1"
        )
    for board in boards:
        if given.method:
            found(board, given.method)  # a name that is wrong is told before the first row
    torch.set_num_threads(1)
    pj.find_groups(nn.Linear(2, 2), torch.ones(1, 2))  # loads torch.export before any clock runs
    minutes = given.minutes if given.minutes is not None else PRESETS[given.preset].minutes
    rows = Record(
        "leaderboard", __doc__.splitlines()[0], "python bench/leaderboard.py", given.out or RESULTS
    )
    keys = ("network", "board", "level", "seed", "method")
    for values in wanted(given, boards):
        key = dict(zip(keys, values, strict=True))
        if rows.has(minutes=minutes, **key):
            continue
        if given.list:
            print(" ".join(str(v) for v in values))
            continue
        network, board, level, seed, method = values
        job = workload(network)
        rows.add(row(job, Contest.of(job, board, level, seed, minutes), method))
        if given.out is not None:
            show(rows.content["rows"], given.out)
        if not given.all:
            return


if __name__ == "__main__":
    main()
