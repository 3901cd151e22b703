"""What is lost where a network that decides while it runs goes through a step that captures it."""

from __future__ import annotations

from torch import nn

from penjing.adaptive import (
    ChannelGatedNetwork,
    EarlyExitNetwork,
    GatedNetwork,
    SlimmableNetwork,
)

LOST: tuple[tuple[type[nn.Module], str], ...] = (
    (
        EarlyExitNetwork,
        "early exits became outputs of one network that runs whole, so no input leaves early; take "
        "this step first, and attach exits to what it gives",
    ),
    (
        GatedNetwork,
        "gated blocks are computed for every input and left out afterwards, so nothing is saved "
        "when it runs; take this step first, and put gates into what it gives",
    ),
    (
        ChannelGatedNetwork,
        "gated channels are computed for every input and left out afterwards, so nothing is saved "
        "when it runs; take this step first, and put gates into what it gives",
    ),
    (
        SlimmableNetwork,
        "the result has the one width that the network was set to; take this step for every "
        "`model.at_width(...)` to have several",
    ),
)


def runs_whole(model: nn.Module) -> tuple[str, ...]:
    """What to say of the result of a step that captures such a network; nothing for others.

    Args:
        model: The network that the step was given.
    """
    return tuple(told for kind, told in LOST if isinstance(model, kind))
