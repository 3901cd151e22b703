"""`find_groups`: what can be cut, what cannot, and why."""

from __future__ import annotations

from torch import nn

from penjing.counts.reach import with_reach
from penjing.graph.capture import Example
from penjing.graph.network import Network
from penjing.plan import Groups
from penjing.verbs.arguments import arguments_checked


@arguments_checked
def find_groups(model: nn.Module, example_inputs: Example) -> Groups:
    """Find the coupled units of a network.

    Args:
        model: Any network that `torch.export` takes; not changed.
        example_inputs: A tensor, a tuple (positional) or a dict (keywords), on the network's
            device.

    Returns:
        Groups and locks as data, with what is within reach and what each lock costs; `str()` is a
        table.

    Raises:
        InputError: The network does not run on the example inputs.
        CaptureError: The network does not export; the message says where and what to change.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> import torch
        >>> [(g.name, g.units) for g in find_groups(net, torch.ones(1, 4))]
        [('0', 8)]
    """
    return with_reach(Network.of(model, example_inputs))
