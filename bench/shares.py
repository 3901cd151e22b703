"""Rows of a question of networks, shares and ways: the next missing one, or all in turn."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch

from record import Record
from workloads import Workload, workload

SEEDS = (0,)


@dataclass(frozen=True, slots=True)
class Question:
    """What a results file answers, row by row.

    Args:
        name: Of the results file, and of the script.
        text: The question, one sentence.
        networks: Names of workloads.
        shares: How small a network is to become.
        ways: How it becomes so.
        row: Network, way, share and seed -> the row.
    """

    name: str
    text: str
    networks: Collection[str]
    shares: Collection[float]
    ways: Collection[str]
    row: Callable[[Workload, str, float, int], dict[str, Any]]

    def main(self) -> None:
        """Do what is missing of what is asked for on the command line."""
        parser = argparse.ArgumentParser(description=self.text)
        parser.add_argument("--network", choices=tuple(self.networks))
        parser.add_argument("--share", type=float, choices=tuple(self.shares))
        parser.add_argument("--way", choices=tuple(self.ways))
        parser.add_argument("--all", action="store_true", help="go on with the next row")
        given = parser.parse_args()
        torch.set_num_threads(1)
        rows = Record(self.name, self.text, f"python bench/{self.name}.py --all")
        networks = [given.network] if given.network else self.networks
        shares = [given.share] if given.share else self.shares
        ways = [given.way] if given.way else self.ways
        for seed, network, share, way in product(SEEDS, networks, shares, ways):
            if not rows.has(network=network, share=share, way=way, seed=seed):
                rows.add(self.row(workload(network), way, share, seed))
                if not given.all:
                    return
