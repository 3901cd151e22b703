"""How many networks can be cut in half, proved right, and to what size?

    python bench/coverage.py --network resnet18 vit  these rows, done again when they are there
    python bench/coverage.py --all --jobs 2          every missing row
    python bench/coverage.py --again                 penjing's half anew where it cut too little
    python bench/coverage.py --again --all           penjing's half of every row anew
    python bench/coverage.py --again --network vit   penjing's half of these rows anew
    python bench/coverage.py --summary               what the rows say

A row is one network with random weights at `pruning_ratio=0.5`: penjing at its defaults, and
Torch-Pruning at its defaults, each in a process of its own, with 100 and 10 seconds of processor
time (Torch-Pruning answers within 5 where it answers at all; else its walk explodes). penjing's
`seconds` are of the processor too, so that a shared machine may make them.
penjing's result is compared with the masked original once more here, by an oracle that reads the
kept positions off the values; where a normalisation over the cut units makes cutting differ from
masking, its own proof stands alone (and Torch-Pruning's result is taken as it runs). A wrong result
ends the benchmark with exit code 1.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import resource
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch
from torch import nn

import penjing as pj
from networks import NETWORKS
from networks.masks import DOUBLE, Changed, call, difference, masked, tolerance
from peers import depgraph
from penjing.errors import PenjingError
from penjing.files import write_json
from penjing.plan import Lock
from record import Record

RATIO = 0.5
TARGET = 0.7  # of the parameters
LIMIT = 100  # seconds of processor time
PEER_LIMIT = 10
PATIENCE = 8  # times that in wall-clock seconds, for a machine that is shared
ENDS = ("network output", "network input")  # locks that every network has


def isolated(work: Callable[[str], dict[str, Any]], name: str, limit: int) -> dict[str, Any]:
    """The answer of `work` in a process of its own, or why there was none."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        child = multiprocessing.get_context("fork").Process(
            target=_answer, args=(work, name, answer, limit)
        )
        child.start()
        child.join(PATIENCE * limit)
        if child.is_alive():
            child.kill()
            child.join()
        if answer.exists():
            found: dict[str, Any] = json.loads(answer.read_text())
            return found
    slow = child.exitcode in {-9, -24}  # killed here, or for its processor time
    why = f"no answer in {limit} s" if slow else f"ended with exit code {child.exitcode}"
    return {"verdict": "RAISED", "cut": False, "runs": False, "raised": why}


def _answer(work: Callable[[str], dict[str, Any]], name: str, answer: Path, limit: int) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # a failed export prints pages
    text = json.dumps(work(name))
    part = answer.with_suffix(".part")
    part.write_text(text)
    part.rename(answer)


def penjing_row(name: str) -> dict[str, Any]:
    """Prune one network with penjing and check the result."""
    model, example = NETWORKS[name].build()
    start = time.process_time()
    try:
        pruned = pj.prune(model, example, pruning_ratio=RATIO)
    except Exception as error:  # noqa: BLE001 - whatever it raises is the finding
        kind = "RAISED" if isinstance(error, PenjingError) else "CRASHED"
        return {"verdict": kind, "raised": f"{type(error).__name__}: {error}".splitlines()[0][:400]}
    seconds = time.process_time() - start
    data = pruned.report.data
    assert data.before is not None
    assert data.after is not None
    assert data.proof is not None
    assert data.coupling is not None
    exact = all(line.exact for line in data.coupling.lines if line.group in pruned.plan.drop)
    row: dict[str, Any] = {
        "seconds": seconds,
        "groups": len(data.coupling.lines),
        "groups_cut": len(pruned.plan.drop),
        "params_before": data.before.params,
        "params_after": data.after.params,
        "share": data.after.params / data.before.params,
        "reachable": data.coupling.reachable,
        "reachable_macs": data.coupling.reachable_macs,
        "proof_error": data.proof.error,
        "proof_moved": data.proof.moved,
        "nodes_compared": data.proof.nodes,
        "form": data.proof.form,
        "form_reason": data.proof.reason,
        "exact": exact,
        "locks": locks(data.locked),
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
    equal = tolerance(model, example)
    checked = {"difference": apart, "moved": difference(twin, model, example), "equal": equal}
    if not same_shapes or (exact and not apart <= equal):
        return {**checked, "verdict": "WRONG", "why": f"differs from the masked original: {apart}"}
    if row["share"] <= TARGET:
        return {**checked, "verdict": "met"}
    return {**checked, "verdict": "lock" if row["locks"] else "MISSED"}


def locks(found: Iterable[Lock]) -> dict[str, int]:
    """Reason -> locked positions of layers' outputs, without those of the network's own ends."""
    counted: dict[str, int] = {}
    for lock in found:
        if not lock.reason.startswith(ENDS):
            reason = f"{lock.reason} {lock.where}".strip()
            counted[reason] = counted.get(reason, 0) + lock.positions
    return counted


def peer_row(name: str) -> dict[str, Any]:
    """Prune one network with Torch-Pruning."""
    try:
        return depgraph.prune(name)
    except Exception as error:  # noqa: BLE001 - whatever it raises is the finding
        return {"cut": False, "runs": False, "raised": depgraph.first_line(error)}


def with_verdict(peer: dict[str, Any], exact: bool, equal: float) -> dict[str, Any]:
    """The peer's row in one word: the same bar as ours."""
    if "raised" in peer:
        word = "raised"
    elif not peer["runs"]:
        word = "does not run"
    elif exact and (peer["difference"] is None or not peer["difference"] <= equal):
        word = "wrong"
    elif not peer["cut"]:
        word = "nothing cut"
    else:
        word = "met" if peer["params_after"] <= TARGET * peer["params_before"] else "cut less"
    return {**peer, "verdict": word}


def row(name: str, peer: dict[str, Any] | None = None) -> dict[str, Any]:
    """Both tools on one network; the peer's half may be given."""
    ours = isolated(penjing_row, name, LIMIT)
    theirs = peer or isolated(peer_row, name, PEER_LIMIT)
    theirs = with_verdict(theirs, ours.get("exact", False), ours.get("equal", DOUBLE))
    family = NETWORKS[name].family
    whole = {"network": name, "family": family, "penjing": ours, "torch_pruning": theirs}
    return {k: _finite(v) if isinstance(v, dict) else v for k, v in whole.items()}


def _finite(half: dict[str, Any]) -> dict[str, Any]:
    """A difference between outputs of other shapes is infinite, which JSON does not have."""
    return {
        k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in half.items()
    }


def rows(names: list[str], jobs: int, peers: dict[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Rows as they are done, `jobs` at a time; everything slow to import is imported before."""
    pj.find_groups(nn.Linear(2, 2), torch.ones(1, 2))
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        for done in as_completed([pool.submit(row, name, peers.get(name)) for name in names]):
            yield done.result()


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts of verdicts, and every row that is not as it should be."""

    def counts(tool: str) -> dict[str, int]:
        words = [r[tool]["verdict"] for r in rows]
        return {word: words.count(word) for word in sorted(set(words))}

    shares = sorted(r["penjing"]["share"] for r in rows if "share" in r["penjing"])
    left = [r["penjing"]["reachable"] for r in rows if r["penjing"]["verdict"] == "lock"]
    return {
        "networks": len(rows),
        "penjing": counts("penjing"),
        "torch_pruning": counts("torch_pruning"),
        "penjing_median_share": shares[len(shares) // 2] if shares else None,
        "penjing_largest_share": shares[-1] if shares else None,
        "reachable_of_the_locked": sorted(left),
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


def _wanted(known: dict[str, Any] | None, given: argparse.Namespace) -> bool:
    """Whether a row is to be made, by what is known of it."""
    if known is None:
        return True
    return given.again and (given.all or known["penjing"]["verdict"] != "met")


def main() -> None:
    """Do the rows that are asked for and missing; a wrong result is an exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", nargs="+", choices=sorted(NETWORKS))
    parser.add_argument("--family", help="only networks whose family starts like this")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--summary", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    results = Record("coverage", __doc__.splitlines()[0], "python bench/coverage.py --all")
    old = results.content["rows"]
    known = {r["network"]: r for r in old}
    names = [n for n in NETWORKS if NETWORKS[n].family.startswith(given.family or "")]
    todo = given.network or (names if given.again or given.all else [])
    if not given.network:
        todo = [n for n in todo if _wanted(known.get(n), given)]
    peers = {n: known[n]["torch_pruning"] for n in todo if given.again and n in known}
    for done in rows(todo, given.jobs, peers):
        results.content["rows"] = [r for r in old if r["network"] != done["network"]]
        write_json(results.path, results.content)
        results.add(done)
        old = results.content["rows"]
    old.sort(key=lambda r: list(NETWORKS).index(r["network"]))
    if todo:
        write_json(results.path, results.content)
    said = summary(old)
    print(json.dumps(said, indent=1))
    if any(r["penjing"]["verdict"] == "WRONG" for r in old):
        raise SystemExit("WRONG RESULT: penjing returned a network that is not the masked one")


if __name__ == "__main__":
    main()
