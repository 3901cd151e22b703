"""Networks with gated channels as JSON content and named tensors, and back; nothing is code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, fx, nn

from penjing.adaptive.channels import ChannelGate, ChannelGatedNetwork
from penjing.adaptive.storage import Stored, form_of, head_form, once
from penjing.decode import decode
from penjing.errors import CheckpointError, PenjingError
from penjing.graph.capture import Example
from penjing.graph.codec import tensors_of, to_json


def _prefix(index: int) -> str:
    """Of the tensors of a gate, as they are called in the network."""
    return f"gates.{index}.head."


def channels_to_storage(network: ChannelGatedNetwork) -> Stored:
    """Describe a network with gated channels.

    Args:
        network: Only read.

    Returns:
        Content for `channels_from_storage`, and the tensors.

    Raises:
        CheckpointError: Its graph holds something that the format does not know.
        CaptureError: A gate of the user's does not export.
    """
    form = network.model
    assert isinstance(form, fx.GraphModule)  # it is made as one
    forms = {"model.": form}
    for index, (gate, site) in enumerate(zip(network.gates, network.sites, strict=True)):
        assert isinstance(gate, ChannelGate)  # as all of them
        forms[_prefix(index)] = head_form(gate.head, site.shape)
    tensors = {p + name: t for p, one in forms.items() for name, t in tensors_of(one).items()}
    full, *gates = map(to_json, forms.values())
    names = [site.name for site in network.sites]
    content = {"full": full, "gates": gates, "sites": names, "density": network.density}
    return content, once(tensors)


def channels_from_storage(
    content: Any, tensors: Mapping[str, Tensor], ties: Mapping[str, str], example: Example | None
) -> ChannelGatedNetwork:
    """Build the network that `channels_to_storage` described, and analyse it again.

    Args:
        content: Parsed JSON, from any source.
        tensors: By qualified name, tied ones once.
        ties: Further names of tensors.
        example: Example inputs, with which the network is analysed.

    Returns:
        The network in eval mode.

    Raises:
        CheckpointError: The content is damaged, or does not fit the tensors.
    """
    if example is None:
        raise CheckpointError("a network with gated channels is loaded with its example inputs")
    try:
        full = form_of(content["full"], "model.", tensors, ties)
        heads: list[nn.Module] = [
            form_of(g, _prefix(k), tensors, ties) for k, g in enumerate(content["gates"])
        ]
        names = decode(tuple[str, ...], content["sites"], "sites")
        density = decode(float, content["density"], "density")
        return ChannelGatedNetwork(full, example, names, heads, density)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, PenjingError) as error:
        raise CheckpointError(
            f"this does not describe a network with gated channels: {type(error).__name__}: {error}"
        ) from error
