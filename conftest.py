"""What every test and docstring example shares: one thread and a fixed seed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

SEED = 0


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Small networks run faster on one thread, and sums come out the same on every machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Random weights and inputs are the same in every run and in every order of tests."""
    torch.manual_seed(SEED)
