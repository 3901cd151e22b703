"""How many convolutional networks can be cut in half, proved right, and to what size?

    python bench/coverage.py --network resnet18      one row, done again when it is there
    python bench/coverage.py --all                   every missing row, one after the other
    python bench/coverage.py --summary               what the rows say

A row is one network with random weights at `pruning_ratio=0.5`: penjing at its defaults, and
Torch-Pruning at its defaults in a process of its own with 100 seconds. penjing's result is compared
with the masked original once more here, by an oracle that reads the kept positions off the values;
where a normalisation over the cut units makes cutting differ from masking, its own proof stands
alone (and Torch-Pruning's result is taken as it runs). A wrong result ends the benchmark with exit
code 1.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

import penjing as pj
from networks import NETWORKS
from networks.masks import Changed, call, difference, masked
from penjing.errors import PenjingError
from record import Record

RATIO = 0.5
TARGET = 0.7  # of the parameters
EQUAL = 1e-9  # relative, in float64
TIMEOUT = 100.0  # seconds for the peer
ENDS = ("network output", "network input")  # locks that every network has
PEER = Path(__file__).parent / "peers" / "depgraph.py"


def penjing_row(name: str) -> dict[str, Any]:
    """Prune one network with penjing and check the result."""
    model, example = NETWORKS[name].build()
    start = time.perf_counter()
    try:
        pruned = pj.prune(model, example, pruning_ratio=RATIO)
    except PenjingError as error:
        return {"verdict": "RAISED", "raised": f"{type(error).__name__}: {error}"[:400]}
    seconds = time.perf_counter() - start
    data, groups = pruned.report.data, pj.find_groups(model, example)
    assert data.before is not None
    assert data.after is not None
    assert data.proof is not None
    exact = all(groups[g].exact for g in pruned.plan.drop)
    row: dict[str, Any] = {
        "seconds": seconds,
        "groups": len(groups),
        "groups_cut": len(pruned.plan.drop),
        "params_before": data.before.params,
        "params_after": data.after.params,
        "share": data.after.params / data.before.params,
        "reachable": groups.reachable,
        "proof_error": data.proof.error,
        "proof_moved": data.proof.moved,
        "nodes_compared": data.proof.nodes,
        "form": data.proof.form,
        "form_reason": data.proof.reason,
        "exact": exact,
        "locks": locks(groups),
    }
    return row | judged(row, model, pruned.model, example, exact)


def judged(
    row: dict[str, Any], model: nn.Module, small: nn.Module, example: Any, exact: bool
) -> dict[str, Any]:
    """The oracle's comparison, and the verdict."""
    same_shapes = [t.shape for t in call(small, example)] == [t.shape for t in call(model, example)]
    try:
        twin = masked(model, small)
    except Changed as error:
        return {"verdict": "WRONG", "why": str(error)}
    apart = difference(small, twin, example) if same_shapes else float("inf")
    checked = {"difference": apart, "moved": difference(twin, model, example)}
    if not same_shapes or (exact and apart > EQUAL):
        return {**checked, "verdict": "WRONG", "why": f"differs from the masked original: {apart}"}
    if row["share"] <= TARGET:
        return {**checked, "verdict": "met"}
    return {**checked, "verdict": "lock" if row["locks"] else "MISSED"}


def locks(groups: Any) -> dict[str, int]:
    """Reason -> locked positions of layers' outputs, without those of the network's own ends."""
    found: dict[str, int] = {}
    for lock in groups.locked:
        if not lock.reason.startswith(ENDS):
            reason = f"{lock.reason} {lock.where}".strip()
            found[reason] = found.get(reason, 0) + lock.positions
    return found


def peer_row(name: str) -> dict[str, Any]:
    """Prune one network with Torch-Pruning in a process of its own."""
    command = [sys.executable, str(PEER), name]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT, check=False, env=environment
        )
    except subprocess.TimeoutExpired:
        return {"cut": False, "runs": False, "raised": f"no answer in {TIMEOUT:.0f} s"}
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return {"cut": False, "runs": False, "raised": f"exit {done.returncode}: {last}"[:200]}
    row: dict[str, Any] = json.loads(lines[-1])
    return row


def with_verdict(peer: dict[str, Any], exact: bool) -> dict[str, Any]:
    """The peer's row in one word: the same bar as ours."""
    if "raised" in peer:
        word = "raised"
    elif not peer["runs"]:
        word = "does not run"
    elif exact and (peer["difference"] is None or peer["difference"] > EQUAL):
        word = "wrong"
    elif not peer["cut"]:
        word = "nothing cut"
    else:
        word = "met" if peer["params_after"] <= TARGET * peer["params_before"] else "cut less"
    return {**peer, "verdict": word}


def row(name: str) -> dict[str, Any]:
    """Both tools on one network."""
    ours = penjing_row(name)
    theirs = with_verdict(peer_row(name), ours.get("exact", False))
    family = NETWORKS[name].family
    return {"network": name, "family": family, "penjing": ours, "torch_pruning": theirs}


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts of verdicts, and every row that is not as it should be."""

    def counts(tool: str) -> dict[str, int]:
        words = [r[tool]["verdict"] for r in rows]
        return {word: words.count(word) for word in sorted(set(words))}

    shares = sorted(r["penjing"]["share"] for r in rows if "share" in r["penjing"])
    return {
        "networks": len(rows),
        "penjing": counts("penjing"),
        "torch_pruning": counts("torch_pruning"),
        "penjing_median_share": shares[len(shares) // 2] if shares else None,
        "penjing_largest_share": shares[-1] if shares else None,
        "compared_by_the_oracle": sum(r["penjing"].get("exact", False) for r in rows),
        "proved_alone": [r["network"] for r in rows if not r["penjing"].get("exact", True)],
        "own_class": sum(r["penjing"].get("form") == "module" for r in rows),
        "not_as_it_should_be": [
            f"{r['network']}: {r['penjing']['verdict']} "
            f"{r['penjing'].get('why') or r['penjing'].get('raised', '')}".strip()
            for r in rows
            if r["penjing"]["verdict"].isupper()
        ],
    }


def main() -> None:
    """Do the rows that are asked for and missing; a wrong result is an exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=sorted(NETWORKS))
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--summary", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    results = Record("coverage", __doc__.splitlines()[0], "python bench/coverage.py --all")
    rows = results.content["rows"]
    if given.network:
        rows[:] = [r for r in rows if r["network"] != given.network]
    for name in [given.network] if given.network else NETWORKS if given.all else []:
        if not results.has(network=name):
            results.add(row(name))
    said = summary(rows)
    print(json.dumps(said, indent=1))
    if any(r["penjing"]["verdict"] == "WRONG" for r in rows):
        raise SystemExit("WRONG RESULT: penjing returned a network that is not the masked one")


if __name__ == "__main__":
    main()
