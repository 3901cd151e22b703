"""Does every cut of a random network equal its masked original, whatever the network and the plan?

    python bench/random_networks.py --count 2000     seeds 0 to 1999, those missing
    python bench/random_networks.py --seed 17        one, and its steps
    python bench/random_networks.py --summary

A row is a hundred networks made of random steps (convolutions, norms, residuals, concatenations,
splits, shuffles, reshapes, attention, recurrence, sharing) and a random plan for each. Checked are:
masked equals cut, module form equals graph form, a plan equals its JSON, cutting twice (the second
plan is made on the cut network, which every tenth time is exported anew) equals cutting once by the
union. A failure ends the benchmark with exit code 1.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from typing import Any

import torch

from penjing.testing.random_networks import check, draw_steps
from record import Record

BATCH = 100


def row(first: int) -> dict[str, Any]:
    """The seeds from `first` on."""
    failures: list[dict[str, Any]] = []
    start, verdicts = time.process_time(), []
    for seed in range(first, first + BATCH):
        maps, tokens = draw_steps(seed)
        try:
            verdict = check(maps, tokens, seed)
        except Exception as error:  # noqa: BLE001 - whatever it raises is the finding
            failures.append({"seed": seed, "steps": [maps, tokens], "why": [repr(error)[:300]]})
            continue
        verdicts.append(verdict)
        if verdict.failures:
            failures.append({"seed": seed, "steps": [maps, tokens], "why": verdict.failures})
    return {
        "first": first,
        "n": BATCH,
        "failures": failures,
        "groups": sum(v.groups for v in verdicts),
        "locks": sum(v.locks for v in verdicts),
        "silent": sum(v.silent for v in verdicts),
        "mean_reachable": statistics.fmean(v.reachable for v in verdicts),
        "cpu_seconds": time.process_time() - start,
    }


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Sums over all rows."""
    return {
        "networks": sum(r["n"] for r in rows),
        "groups": sum(r["groups"] for r in rows),
        "not_provable": sum(r["silent"] for r in rows),
        "mean_reachable": statistics.fmean(r["mean_reachable"] for r in rows) if rows else None,
        "failures": [f for r in rows for f in r["failures"]],
    }


def main() -> None:
    """Do the rows that are missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=0)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--summary", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if given.seed is not None:
        steps = draw_steps(given.seed)
        print(json.dumps({"steps": steps, "failures": check(*steps, given.seed).failures}))
        return
    command = "python bench/random_networks.py --count 2000"
    results = Record("random_networks", __doc__.splitlines()[0], command)
    for first in range(0, given.count, BATCH):
        if not results.has(first=first):
            results.add(row(first))
    said = summary(results.content["rows"])
    print(json.dumps(said, indent=1))
    if said["failures"]:
        raise SystemExit("an invariant does not hold")


if __name__ == "__main__":
    main()
