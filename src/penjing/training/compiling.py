"""Training steps through `torch.compile`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import nn

from penjing.errors import StrategyError


def compiled(model: nn.Module) -> nn.Module:
    """The compiled form of a network: its parameters and buffers are those of `model`.

    What was compiled before is forgotten: the compiler does not look whether a network of the same
    class has other hooks, and would leave out those by which a teacher listens.
    """
    torch.compiler.reset()
    return cast("nn.Module", torch.compile(model))


@contextmanager
def first_call(model: nn.Module) -> Iterator[None]:
    """What the compiler says while it compiles, as an error of the caller.

    Raises:
        StrategyError: The network cannot be compiled, or there is no compiler.
    """
    from torch._dynamo.exc import TorchDynamoException  # takes a second to import

    try:
        yield
    except TorchDynamoException as error:
        said = next((line for line in str(error).splitlines() if line.strip()), "no reason given")
        raise StrategyError(
            f"torch.compile does not take {type(model).__name__}: {type(error).__name__}: "
            f"{said.strip()}. Leave compile=True away to train it as it is"
        ) from error
