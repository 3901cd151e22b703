"""Adaptive networks as JSON content and named tensors, and back; nothing in them is code."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, fx, nn

from penjing.adaptive.criteria import ExitPolicy
from penjing.adaptive.exits import Attachment, EarlyExitNetwork, put
from penjing.adaptive.gated import GatedNetwork, Site
from penjing.adaptive.slimmable import SlimmableNetwork
from penjing.decode import decode
from penjing.errors import CheckpointError, PenjingError, StrategyError
from penjing.graph.capture import MIN_BATCH, Example, capture
from penjing.graph.codec import from_json, tensors_of, to_json
from penjing.graph.form import graph_form, identity
from penjing.plan import Plan

Tensors = dict[str, Tensor]

GATED_PARTS = ("trunk", "branches", "bypasses", "gates")
"""Lists of modules of a network with gated blocks, as its constructor takes them."""

Stored = tuple[dict[str, Any], Tensors]
"""JSON content, and tensors by qualified name, tied ones once."""


def exits_to_storage(network: EarlyExitNetwork) -> Stored:
    """Describe a network with early exits.

    Args:
        network: Only read.

    Returns:
        Content for `exits_from_storage`, and the tensors.

    Raises:
        CheckpointError: Its graphs hold something that the format does not know.
        CaptureError: A head of the user's does not export.
    """
    shapes = [place.shape for place in network.attachments]
    heads = list(map(head_form, network.heads, shapes))
    graphs, tensors = _graphs({"segments": network.segments, "heads": heads})
    content = {
        **graphs,
        "attachments": [asdict(place) for place in network.attachments],
        "policy": network.policy.to_json(),
        "frozen": network.frozen,
    }
    return content, once(tensors)


def exits_from_storage(
    content: Any,
    tensors: Mapping[str, Tensor],
    ties: Mapping[str, str],
    example: Example | None = None,  # noqa: ARG001 - as other kinds of networks need it
) -> EarlyExitNetwork:
    """Build the network that `exits_to_storage` described; no op is run.

    Args:
        content: Parsed JSON, from any source.
        tensors: By qualified name, tied ones once.
        ties: Further names of tensors.
        example: Example inputs; not needed here.

    Returns:
        The network in eval mode.

    Raises:
        CheckpointError: The content is damaged, or does not fit the tensors.
    """
    try:
        segments, heads = (_forms(content, kind, tensors, ties) for kind in ("segments", "heads"))
        places = decode(tuple[Attachment, ...], content["attachments"], "attachments")
        policy = ExitPolicy.from_json(content["policy"])
        frozen = decode(bool, content["frozen"], "frozen")
        network = EarlyExitNetwork(segments, heads, places, policy, frozen=frozen)
        for name, first in ties.items():
            _share(network, name, first)
    except (KeyError, TypeError, ValueError, AttributeError, StrategyError) as error:
        raise CheckpointError(
            f"this does not describe a network with early exits: {type(error).__name__}: {error}"
        ) from error
    return network


def gated_to_storage(network: GatedNetwork) -> Stored:
    """Describe a network with gated blocks.

    Args:
        network: Only read.

    Returns:
        Content for `gated_from_storage`, and the tensors.

    Raises:
        CheckpointError: Its graphs hold something that the format does not know.
        CaptureError: A gate of the user's does not export.
    """
    parts = {kind: getattr(network, kind) for kind in GATED_PARTS}
    shapes = [site.shape for site in network.sites]
    parts["gates"] = list(map(head_form, network.gates, shapes))
    graphs, tensors = _graphs(parts)
    sites = [asdict(site) for site in network.sites]
    return {**graphs, "sites": sites, "macs": network.macs}, once(tensors)


def gated_from_storage(
    content: Any,
    tensors: Mapping[str, Tensor],
    ties: Mapping[str, str],
    example: Example | None = None,  # noqa: ARG001 - as other kinds of networks need it
) -> GatedNetwork:
    """Build the network that `gated_to_storage` described; no op is run.

    Args:
        content: Parsed JSON, from any source.
        tensors: By qualified name, tied ones once.
        ties: Further names of tensors.
        example: Example inputs; not needed here.

    Returns:
        The network in eval mode.

    Raises:
        CheckpointError: The content is damaged, or does not fit the tensors.
    """
    try:
        trunk, branches, bypasses, gates = (
            _forms(content, kind, tensors, ties) for kind in GATED_PARTS
        )
        sites = decode(tuple[Site, ...], content["sites"], "sites")
        macs = decode(int, content["macs"], "macs")
        network = GatedNetwork(trunk, branches, bypasses, gates, sites, macs)
        for name, first in ties.items():
            _share(network, name, first)
    except (KeyError, TypeError, ValueError, AttributeError, StrategyError) as error:
        raise CheckpointError(
            f"this does not describe a network with gated blocks: {type(error).__name__}: {error}"
        ) from error
    return network


def slimmable_to_storage(network: SlimmableNetwork) -> Stored:
    """Describe a network of several widths.

    Args:
        network: Only read.

    Returns:
        Content for `slimmable_from_storage`, and the tensors.

    Raises:
        CheckpointError: Its graph holds something that the format does not know.
        CaptureError: The full network does not export.
    """
    model = network.model
    whole = isinstance(model, fx.GraphModule)
    form = model if whole else graph_form(capture(model, network.example_inputs))
    assert isinstance(form, fx.GraphModule)  # both are
    tensors = {f"model.{name}": tensor for name, tensor in tensors_of(form).items()}
    own = {**dict(network.own.named_parameters()), **dict(network.own.named_buffers())}
    tensors.update({f"own.{name}": tensor for name, tensor in own.items()})
    plans = {str(share): plan.to_json() for share, plan in network.plans.items()}
    return {"full": to_json(form), "plans": plans, "width": network.width}, once(tensors)


def slimmable_from_storage(
    content: Any, tensors: Mapping[str, Tensor], ties: Mapping[str, str], example: Example | None
) -> SlimmableNetwork:
    """Build the network that `slimmable_to_storage` described, the full one in its graph form.

    Args:
        content: Parsed JSON, from any source.
        tensors: By qualified name, tied ones once.
        ties: Further names of tensors.
        example: Example inputs, with which the network is analysed again.

    Returns:
        The network in eval mode.

    Raises:
        CheckpointError: The content is damaged, or does not fit the tensors.
    """
    if example is None:
        raise CheckpointError("a network of several widths is loaded with its example inputs")
    try:
        plans = {float(share): Plan.from_json(text) for share, text in content["plans"].items()}
        full = form_of(content["full"], "model.", tensors, ties)
        network = SlimmableNetwork(full, example, plans).set_width(float(content["width"]))
        held = {**dict(network.own.named_parameters()), **dict(network.own.named_buffers())}
        with torch.no_grad():
            for name, tensor in held.items():
                tensor.copy_(tensors[f"own.{name}"])
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, PenjingError) as error:
        raise CheckpointError(
            f"this does not describe a network of several widths: {type(error).__name__}: {error}"
        ) from error
    return network.eval()


def _graphs(parts: Mapping[str, Iterable[nn.Module]]) -> tuple[dict[str, list[Any]], Tensors]:
    """Graph forms as JSON content by kind, and their tensors under the names they have there."""
    graphs: dict[str, list[Any]] = {}
    tensors: Tensors = {}
    for kind, forms in parts.items():
        graphs[kind] = []
        for index, form in enumerate(forms):
            assert isinstance(form, fx.GraphModule)  # pieces of a network are from the start
            graphs[kind].append(to_json(form))
            tensors.update({f"{kind}.{index}.{n}": t for n, t in tensors_of(form).items()})
    return graphs, tensors


def _forms(
    content: Any, kind: str, tensors: Mapping[str, Tensor], ties: Mapping[str, str]
) -> list[fx.GraphModule]:
    """The graph forms of one kind."""
    return [form_of(graph, f"{kind}.{k}.", tensors, ties) for k, graph in enumerate(content[kind])]


def head_form(head: nn.Module, shape: tuple[int, ...]) -> fx.GraphModule:
    """A head as a graph; its tensors are the head's own."""
    if isinstance(head, fx.GraphModule):
        return head
    weight = next(iter(head.parameters()), torch.empty(0))
    example = torch.zeros(MIN_BATCH, *shape, dtype=weight.dtype, device=weight.device)
    return graph_form(capture(head, example))


def form_of(
    graph: Any, prefix: str, tensors: Mapping[str, Tensor], ties: Mapping[str, str]
) -> fx.GraphModule:
    """One graph form of JSON content and named tensors."""
    known = {**tensors, **{name: tensors[first] for name, first in ties.items()}}
    own = {name: entry for name, entry in graph["tensors"].items() if "same" not in entry}
    return from_json(graph, {name: known[prefix + name] for name in own})


def _share(network: nn.Module, name: str, first: str) -> None:
    """Let two names hold one tensor, in place."""
    owner, _, field = name.rpartition(".")
    source, _, there = first.rpartition(".")
    put(network.get_submodule(owner), field, getattr(network.get_submodule(source), there))


def once(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tied tensors under their first name alone."""
    first: dict[tuple[Any, ...], tuple[str, Tensor]] = {}
    for name, tensor in tensors.items():
        first.setdefault(identity(tensor), (name, tensor))
    return dict(first.values())
