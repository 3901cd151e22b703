"""Save and load: a folder of JSON and safetensors that is exact, whole, and never code.

    folder/
      spec.json           version, class, plans, example inputs, graph, metrics, versions, SHA-256
      model.safetensors   every tensor under its qualified name, tied ones once; one with many
                          zeros as its values and their places, where that is smaller

The weights are written first, under a name that the present spec does not use; then the spec is
replaced in one step. A kill at any moment leaves the old checkpoint or the new one.
"""

from __future__ import annotations

import copy
import errno
import json
import math
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, fx, nn

from penjing import files
from penjing.adaptive.channel_storage import channels_from_storage, channels_to_storage
from penjing.adaptive.channels import ChannelGatedNetwork
from penjing.adaptive.exits import EarlyExitNetwork
from penjing.adaptive.gated import GatedNetwork
from penjing.adaptive.slimmable import SlimmableNetwork
from penjing.adaptive.storage import (
    Stored,
    exits_from_storage,
    exits_to_storage,
    gated_from_storage,
    gated_to_storage,
    slimmable_from_storage,
    slimmable_to_storage,
)
from penjing.errors import CheckpointError, InputError, PlanError
from penjing.graph.capture import Example, capture, describe
from penjing.graph.codec import from_json, tensors_of, to_json
from penjing.graph.form import graph_form, identity
from penjing.graph.network import Network
from penjing.plan import Plan
from penjing.pruning.depth import cut_by, shorten_whole
from penjing.pruning.packing import Packed, described, from_description, pack, unpack
from penjing.pruning.pretrained import describe_config
from penjing.quantization.module import QuantizedModule
from penjing.quantization.storage import from_storage, to_storage
from penjing.record import Record, attach, make_example, record_of

SPEC = "spec.json"
SPEC_VERSION = 3  # written for networks that adapt at run time
PACKED_VERSION = 2  # written where something is packed
DENSE_VERSION = 1  # written everywhere else, so that older versions read it too
MAX_SPEC_BYTES = 256 * 2**20

VALUES, PLACES = ":values", ":places"  # behind the name of a packed tensor
Builder = Callable[[Any, Mapping[str, Tensor], Mapping[str, str], Example | None], nn.Module]

ADAPTIVE: Mapping[str, Builder] = {
    "exits": exits_from_storage,
    "gates": gated_from_storage,
    "channels": channels_from_storage,
    "slimmable": slimmable_from_storage,
}
"""Form in the file -> what builds the network of its content, tensors, ties and example inputs."""

_WEIGHTS = ("model.safetensors", "model.1.safetensors")


def save(
    model: nn.Module,
    path: str | Path,
    example_inputs: Example | None = None,
    *,
    plan: Plan | None = None,
    metrics: Mapping[str, float] | None = None,
) -> Path:
    """Save a network as JSON and safetensors, without pickle.

    Args:
        model: Any network; only read. One that penjing made knows its plans and example inputs.
        path: Folder to write; an earlier checkpoint in it is replaced in one step.
        example_inputs: A tensor, a tuple or a dict, needed once for a network that penjing did not
            make; without it the folder holds no graph and loads only into the network's own class.
        plan: The plan that made the network from the dense one, where the network does not know.
        metrics: Figures to keep beside the network, such as its accuracy.

    Returns:
        The folder.

    Raises:
        InputError: `model` is not a module, does not run on `example_inputs`, a plan comes without
            them, or a metric is no number.
        CheckpointError: The state dict holds something that is not a tensor, or `path` is a file.
        CaptureError: The network does not export.
        OSError: The disk is full or the folder cannot be written; an earlier checkpoint is intact.

    Example:
        >>> import tempfile
        >>> net = nn.Linear(2, 3)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = save(net, folder, torch.ones(1, 2))
        ...     again = load(folder)
        >>> torch.equal(again.weight, net.weight)
        True
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"save takes a module, not a {type(model).__name__}; give result.model")
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder} is a file; a checkpoint is a folder")
    record = _record(model, example_inputs, plan)
    if record is None and isinstance(model, QuantizedModule):
        record = Record.of(model.network.program.example_inputs)
    named = _named_tensors(model)
    content = _content(model, record, example_inputs)
    name = _free_name(folder)
    stored = {n: t.detach().cpu().contiguous().clone() for n, t in content.tensors.items()}
    packed = _packed(stored)
    figures = _figures(metrics or {})
    weights = files.write_with(
        folder / name, lambda part: _write_weights(_laid_out(stored, packed), part)
    )
    spec = {
        "format": "penjing",
        "version": _version(content, packed),
        "class": f"{type(model).__module__}.{type(model).__qualname__}",
        "weights": {
            "file": name,
            "sha256": files.sha256(weights),
            "size_bytes": weights.stat().st_size,
        },
        "packed": {n: described(part) for n, part in packed.items()},
        "example": record.example if record else None,
        "plans": [plan.to_json() for plan in record.plans] if record else [],
        "metrics": figures,
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "form": content.form,
        "ties": _ties(named, stored),
        "constants": sorted(set(stored) - set(named)),
        "graph": content.graph,
        "graph_missing": content.missing,
        "quantization": content.grids,
    }
    files.write_json(folder / SPEC, spec)
    for other in set(_WEIGHTS) - {name}:
        (folder / other).unlink(missing_ok=True)
    return folder


def load(path: str | Path, model: nn.Module | Callable[[], nn.Module] | None = None) -> nn.Module:
    """Load what `save` wrote; nothing in the folder is run as code.

    Args:
        path: The folder.
        model: The dense network, or a function that makes it, to get a module of its own class:
            the saved plans are applied to a copy, then the saved tensors are put in. Without it the
            graph form is returned.

    Returns:
        The network in eval mode, on the CPU; with `model`, on its device.

    Raises:
        CheckpointError: The folder is damaged, foreign or newer than this version, holds no graph
            (and no `model` was given), or does not fit `model`.

    Example:
        >>> import tempfile
        >>> net = nn.Linear(2, 3)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     again = load(save(net, folder), model=lambda: nn.Linear(2, 3))
        >>> torch.equal(again.weight, net.weight)
        True
    """
    saved = read(path)
    if saved.form in ADAPTIVE:
        loaded: nn.Module = _as_adaptive(saved, model)
    elif saved.grids is not None:
        loaded = _as_integers(saved, model)
    else:
        loaded = _as_graph(saved) if model is None else _as_module(saved, model)
    if saved.record is not None:
        attach(loaded, saved.record)
    return loaded.eval()


@dataclass(frozen=True, eq=False)
class Saved:
    """Content of a checkpoint, checked but not yet a network.

    Args:
        path: The folder.
        tensors: By qualified name, tied ones once.
        ties: Further name -> the name under which its tensor is stored.
        constants: Names that belong to the graph and not to the network's own class.
        record: Example inputs and plans, where they were known.
        graph: The graph form as JSON content, or None.
        graph_missing: Why there is no graph.
        form: "graph" when a graph form was saved, "module" when a module of another class was,
            "integers", or a name in `ADAPTIVE`.
        metrics: Figures kept beside the network.
        grids: Of a quantized network, as JSON content; None for one in floats.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    ties: Mapping[str, str]
    constants: frozenset[str]
    record: Record | None
    graph: Any
    graph_missing: str
    form: str
    metrics: Mapping[str, float | None]
    grids: Any = None


def read(path: str | Path) -> Saved:
    """Read and check a checkpoint.

    Args:
        path: The folder.

    Returns:
        Its content.

    Raises:
        CheckpointError: The folder is damaged, foreign or newer than this version.
    """
    folder = Path(path)
    spec = _read_spec(folder)
    try:
        plans = tuple(Plan.from_json(text) for text in spec["plans"])
        record = None if spec["example"] is None else Record(spec["example"], plans)
        if record is not None:
            make_example(record.example, "meta")
        return Saved(
            path=folder,
            tensors=_unpacked(_read_weights(folder, spec["weights"]), spec.get("packed") or {}),
            ties={str(k): str(v) for k, v in spec["ties"].items()},
            constants=frozenset(map(str, spec["constants"])),
            record=record,
            graph=spec["graph"],
            graph_missing=str(spec["graph_missing"]),
            form=str(spec["form"]),
            metrics=dict(spec["metrics"]),
            grids=spec.get("quantization"),
        )
    except (KeyError, TypeError, ValueError, AttributeError, PlanError) as error:
        raise CheckpointError(
            f"{folder / SPEC} is damaged: {type(error).__name__}: {error}"
        ) from error


def _record(model: nn.Module, example: Example | None, plan: Plan | None) -> Record | None:
    record = record_of(model)
    if (
        record is not None
        and example is None
        and isinstance(model, SlimmableNetwork | ChannelGatedNetwork)
    ):
        example = model.example_inputs  # its dtype may be another since
    plans = (plan,) if plan is not None else record.plans if record is not None else ()
    if example is not None:
        return Record.of(example, plans)
    if record is not None:
        return Record(record.example, plans)
    if plan is not None:
        raise InputError(
            "a plan is applied to a captured network; give save example_inputs as well"
        )
    return None


@dataclass(frozen=True, eq=False)
class _Content:
    """What is written about a network.

    Its form ("graph", "module", "integers" or a name in `ADAPTIVE`), its graph or why there is
    none, its tensors, and the grids of integers.
    """

    form: str
    graph: dict[str, Any] | None
    missing: str
    tensors: Mapping[str, Tensor]
    grids: Any = None


def _content(model: nn.Module, record: Record | None, example: Example | None) -> _Content:
    if isinstance(model, QuantizedModule):
        graph, grids, tensors = to_storage(model.network)
        return _Content("integers", graph, "", tensors, grids)
    if isinstance(model, EarlyExitNetwork):
        return _Content("exits", *_described(exits_to_storage(model)))
    if isinstance(model, GatedNetwork):
        return _Content("gates", *_described(gated_to_storage(model)))
    if isinstance(model, ChannelGatedNetwork):
        return _Content("channels", *_described(channels_to_storage(model)))
    if isinstance(model, SlimmableNetwork):
        return _Content("slimmable", *_described(slimmable_to_storage(model)))
    missing = "it was saved without example inputs"
    if isinstance(model, fx.GraphModule):
        try:
            return _Content("graph", to_json(model), "", tensors_of(model))
        except CheckpointError as error:
            missing = str(error)
    if record is not None:
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        inputs = record.example_inputs(device) if example is None else example
        form = graph_form(capture(model, inputs))
        try:
            return _Content("module", to_json(form), "", tensors_of(form))
        except CheckpointError as error:
            missing = str(error)
    return _Content("module", None, missing, _state(model))


def _described(stored: Stored) -> tuple[dict[str, Any], str, dict[str, Tensor]]:
    graph, tensors = stored
    return graph, "", tensors


def _version(content: _Content, packed: Mapping[str, Packed]) -> int:
    """The oldest version that can read it."""
    if content.form in ADAPTIVE:
        return SPEC_VERSION
    return PACKED_VERSION if packed or content.grids else DENSE_VERSION


def _state(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and all buffers, also those outside the state dict; tied ones once."""
    once: dict[tuple[Any, ...], tuple[str, Tensor]] = {}
    for name, tensor in _named_tensors(model).items():
        once.setdefault(identity(tensor), (name, tensor))
    return dict(once.values())


def _named_tensors(model: nn.Module) -> dict[str, Tensor]:
    foreign = [k for k, v in model.state_dict(keep_vars=True).items() if not isinstance(v, Tensor)]
    if foreign:
        raise CheckpointError(
            f"state dict entry {foreign[0]!r} is not a tensor and cannot be saved"
        )
    named: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    named.update(model.named_buffers(remove_duplicate=False))
    return named


def _ties(named: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> dict[str, str]:
    """Further names of stored tensors."""
    first = {identity(tensor): name for name, tensor in named.items() if name in stored}
    return {name: first[identity(t)] for name, t in named.items() if name not in stored}


def _figures(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    """Metrics as JSON has them: numbers, and None for what is not finite."""
    figures: dict[str, float | None] = {}
    for name, value in metrics.items():
        try:
            figure = float(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(
                f"metric {name!r} is {value!r}; give one number, such as {{'accuracy': 0.91}}"
            ) from error
        figures[name] = figure if math.isfinite(figure) else None
    return figures


def _packed(stored: Mapping[str, Tensor]) -> dict[str, Packed]:
    """Tensors that are smaller packed."""
    forms = {name: pack(tensor) for name, tensor in stored.items()}
    return {
        name: form
        for name, form in forms.items()
        if form is not None and not {name + VALUES, name + PLACES} & set(stored)
    }


def _laid_out(stored: Mapping[str, Tensor], packed: Mapping[str, Packed]) -> dict[str, Tensor]:
    """Tensors as the file holds them."""
    out = {name: tensor for name, tensor in stored.items() if name not in packed}
    for name, form in packed.items():
        out[name + VALUES], out[name + PLACES] = form.values, form.places
    return out


def _unpacked(held: dict[str, Tensor], packed: Mapping[str, Any]) -> dict[str, Tensor]:
    """Tensors by qualified name from what the file holds.

    Raises:
        CheckpointError: The parts of a packed tensor do not fit together.
    """
    for name, entry in packed.items():
        values, places = held.pop(name + VALUES), held.pop(name + PLACES)
        try:
            held[name] = unpack(from_description(entry, values, places))
        except CheckpointError as error:
            raise CheckpointError(f"tensor {name!r} is damaged: {error}") from error
    return held


def _write_weights(stored: dict[str, Tensor], part: Path) -> None:
    try:
        save_file(stored, part)
    except SafetensorError as error:  # the library's word for a disk that is full
        raise OSError(errno.EIO, f"the weights cannot be written: {error}") from error


def _free_name(folder: Path) -> str:
    """A file name for the weights that the present spec does not use."""
    try:
        used = _read_spec(folder)["weights"]["file"]
    except (CheckpointError, KeyError, TypeError):
        return _WEIGHTS[0]
    return next(name for name in _WEIGHTS if name != used)


def _read_spec(folder: Path) -> dict[str, Any]:
    path = folder / SPEC
    if not path.is_file():
        raise CheckpointError(f"{folder} is not a penjing checkpoint: it has no {SPEC}")
    if path.stat().st_size > MAX_SPEC_BYTES:
        raise CheckpointError(
            f"{path} has {path.stat().st_size} bytes, more than the {MAX_SPEC_BYTES} of any spec"
        )
    try:
        spec: Any = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: it was cut off or damaged: {error}") from error
    version = spec.get("version") if isinstance(spec, dict) else None
    if type(version) is not int or spec.get("format") != "penjing":
        raise CheckpointError(f"{path} was not written by penjing")
    if version > SPEC_VERSION:
        raise CheckpointError(
            f"{path} has version {version}, this penjing reads up to {SPEC_VERSION}; "
            "upgrade penjing"
        )
    return dict(spec)


def _read_weights(folder: Path, entry: Mapping[str, Any]) -> dict[str, Tensor]:
    name = str(entry["file"])
    if name not in _WEIGHTS:
        raise CheckpointError(
            f"{folder / SPEC} names the weights {name[:80]!r}, not a file of its own"
        )
    path = folder / name
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; was the folder copied whole?")
    if files.sha256(path) != entry["sha256"]:
        raise CheckpointError(
            f"{path} has {path.stat().st_size} bytes that differ from what was saved "
            f"({entry['size_bytes']} bytes); it was cut off or changed"
        )
    try:
        # copies: the file's tensors are not aligned, and kernels round by alignment
        return {name: tensor.clone() for name, tensor in load_file(path).items()}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a safetensors file: {error}") from error


def _as_adaptive(saved: Saved, model: object) -> nn.Module:
    if model is not None:
        raise CheckpointError(
            f"{saved.path} holds a network that adapts at run time, which the network's own class "
            "cannot express; load it without model="
        )
    example = None if saved.record is None else saved.record.example_inputs()
    return ADAPTIVE[saved.form](saved.graph, saved.tensors, saved.ties, example)


def _as_integers(saved: Saved, model: object) -> QuantizedModule:
    if model is not None:
        raise CheckpointError(
            f"{saved.path} holds a network in integers, which the network's own class cannot "
            "express; load it without model="
        )
    if saved.record is None:
        raise CheckpointError(f"{saved.path} is damaged: it does not say what the network takes")
    example = saved.record.example_inputs()
    return QuantizedModule(from_storage(saved.graph, saved.grids, saved.tensors, example))


def _as_graph(saved: Saved) -> nn.Module:
    if saved.graph is None:
        raise CheckpointError(
            f"{saved.path} holds no graph because {saved.graph_missing}; give the network's own "
            "class: load(path, model=...)"
        )
    return from_json(saved.graph, saved.tensors)


def _as_module(saved: Saved, model: nn.Module | Callable[[], nn.Module]) -> nn.Module:
    if saved.form == "graph":
        raise CheckpointError(
            f"{saved.path} holds a graph form, which the network's own class cannot express; load "
            "it without model="
        )
    dense: Any = copy.deepcopy(model) if isinstance(model, nn.Module) else model
    dense = dense() if callable(dense) and not isinstance(dense, nn.Module) else dense
    if not isinstance(dense, nn.Module):
        raise InputError(
            f"model= gave a {type(dense).__name__}; give a module or a function of one"
        )
    for plan in saved.record.plans if saved.record else ():
        _apply(dense, plan, saved)
    _fill(dense, saved)
    return dense


def _apply(model: nn.Module, plan: Plan, saved: Saved) -> None:
    """Cut the units of `plan` from `model`, in place."""
    assert saved.record is not None  # plans come with their record
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    try:
        example = saved.record.example_inputs(device)
        cut = cut_by(Network.of(model, example), plan)
        shorten_whole(model, cut)
        describe_config(model, model, cut)
    except (PlanError, InputError) as error:
        raise CheckpointError(f"the plan in {saved.path} does not fit model=: {error}") from error


def _fill(model: nn.Module, saved: Saved) -> None:
    """Copy the saved tensors into `model` after all were found to fit, in place."""
    named = _named_tensors(model)
    dangling = sorted(set(saved.ties.values()) - set(saved.tensors))
    if dangling:
        raise CheckpointError(
            f"{saved.path} ties a name to {dangling[0]!r}, which it does not hold"
        )
    tied = {name: saved.tensors[first] for name, first in saved.ties.items()}
    given = {n: t for n, t in {**saved.tensors, **tied}.items() if n not in saved.constants}
    kind = type(model).__name__
    for name in sorted(set(named) ^ set(given)):
        place = str(saved.path) if name in named else kind
        raise CheckpointError(
            f"{place} has no tensor {name!r}; was {kind} the network saved there?"
        )
    for name, tensor in named.items():
        value = given[name]
        if value.shape != tensor.shape or value.dtype != tensor.dtype:
            raise CheckpointError(
                f"tensor {name!r} is {describe(value)} in {saved.path} and {describe(tensor)} in "
                f"{kind}; is it another network, or in another dtype?"
            )
    with torch.no_grad():
        for name, tensor in named.items():
            tensor.copy_(given[name])
