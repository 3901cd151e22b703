"""Torch-Pruning (Fang et al. 2023, arXiv:2301.12900) at its default settings on one network.

    python bench/peers/depgraph.py resnet18

Prints one JSON object: whether it cut, whether the result runs, what is left, and whether it equals
the masked original where that can be told. A process of its own, since it may not return.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from torch import nn

from networks import NETWORKS
from networks.masks import Changed, call, difference, masked

RATIO = 0.5


def prune(name: str) -> dict[str, Any]:
    """Prune one network of the zoo as the README of Torch-Pruning does."""
    import torch_pruning as tp

    net = NETWORKS[name]
    model, example = net.build()
    original, _ = net.build()
    before = count(model)
    shapes = [tuple(t.shape) for t in call(original, example)]
    start = time.perf_counter()
    pruner = tp.pruner.BasePruner(
        model,
        example,
        importance=tp.importance.MagnitudeImportance(p=2),
        pruning_ratio=RATIO,
        ignored_layers=[model.get_submodule(head) for head in net.heads],
    )
    pruner.step()
    row: dict[str, Any] = {"seconds": time.perf_counter() - start, "params_before": before}
    row |= {"params_after": count(model), "cut": count(model) < before}
    try:
        row["runs"] = [tuple(t.shape) for t in call(model, example)] == shapes
    except (RuntimeError, ValueError, IndexError) as error:
        return row | {"runs": False, "raised_on_run": first_line(error)}
    try:
        row["difference"] = difference(model, masked(original, model), example)
    except Changed as error:
        row["difference"], row["not_comparable"] = None, str(error)
    return row


def first_line(error: Exception) -> str:
    """Type and first line of an error."""
    line = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {line}"[:200]


def count(model: nn.Module) -> int:
    """Elements of all parameters."""
    return sum(p.numel() for p in model.parameters())


def build_seconds(model: nn.Module, example: Any) -> tuple[float, float]:
    """Process time of the dependency graph, and of the graph with every group walked once."""
    import torch_pruning as tp

    start = time.process_time()
    graph = tp.DependencyGraph().build_dependency(model, example)
    built = time.process_time() - start
    for _ in graph.get_all_groups(root_module_types=[nn.modules.conv._ConvNd, nn.Linear]):
        pass
    return built, time.process_time() - start


def main() -> None:
    """Prune the network that is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network", choices=sorted(NETWORKS))
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    name = parser.parse_args().network
    try:
        row = prune(name)
    except Exception as error:  # noqa: BLE001 - whatever it raises is the finding
        row = {"cut": False, "runs": False, "raised": first_line(error)}
    print(json.dumps(row))


if __name__ == "__main__":
    main()
