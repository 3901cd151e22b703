"""Surgery: a cut carried out on a module of the user's own class.

Parameters and buffers are sliced under their own names and the attributes that torch's layers read
are patched. Whether the class's `forward` follows is not assumed here: `verify` runs it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from penjing.graph.call import Call, op_name
from penjing.graph.groups import weight_of
from penjing.graph.network import Cut


def cut_module(model: nn.Module, cut: Cut) -> nn.Module:
    """A copy of `model` with the units of a plan removed.

    Args:
        model: The network that `cut` was made from; not changed.
        cut: What goes.

    Returns:
        A module of the same class; its forward may still fail when it bakes sizes in.
    """
    shrunk = copy.deepcopy(model)
    shrink(shrunk, cut)
    return shrunk


def shrink(model: nn.Module, cut: Cut) -> None:
    """Remove the units of a plan from `model`, in place.

    Args:
        model: The network that `cut` was made from, or a copy of it.
        cut: What goes.
    """
    write_tensors(model, cut.program.tensors)
    _patch(model, cut)


def write_tensors(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Replace parameters and buffers by name, in place; tied parameters stay tied.

    Args:
        model: Module to write to.
        tensors: Qualified name -> new value; names that the module does not have are lifted
            constants and left out.
    """
    old = {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }
    changed = {
        name: value
        for name, value in tensors.items()
        if name in old and not _same(old[name], value)
    }
    by_identity = {id(old[name]): value for name, value in changed.items()}
    made: dict[int, Tensor] = {}
    for name, tensor in old.items():
        if id(tensor) not in by_identity:
            continue
        if id(tensor) not in made:
            made[id(tensor)] = _like(tensor, by_identity[id(tensor)])
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        store: dict[str, Any] = (
            module._parameters if isinstance(tensor, nn.Parameter) else module._buffers
        )
        store[leaf] = made[id(tensor)]
    for part in model.modules():
        if isinstance(part, nn.RNNBase):  # which keeps a list of its own
            part._flat_weights = [getattr(part, name) for name in part._flat_weights_names]


def _same(old: Tensor, new: Tensor) -> bool:
    return old.shape == new.shape and torch.equal(old.detach(), new.to(old.device, old.dtype))


def _like(old: Tensor, new: Tensor) -> Tensor:
    value = new.detach().to(old.device, old.dtype).clone()
    return (
        nn.Parameter(value, requires_grad=old.requires_grad)
        if isinstance(old, nn.Parameter)
        else value
    )


def _patch(model: nn.Module, cut: Cut) -> None:
    """Set the sizes that torch's own layers keep as attributes from the tensors they now hold."""
    counts = _counts(cut)
    for name, module in model.named_modules():
        patch = next((p for kind, p in _PATCHES.items() if isinstance(module, kind)), None)
        if patch is not None:
            patch(module, counts.get(f"{name}.weight" if name else "weight"))


def _counts(cut: Cut) -> dict[str, int]:
    """Weight -> `groups` or `num_groups` of the op that uses it, after the cut."""
    counts: dict[str, int] = {}
    stored = cut.program.stored
    for node in cut.program.graph.nodes:
        if node.op != "call_function":
            continue
        weight = weight_of(node)
        if op_name(node) == "group_norm":
            weight = Call(node).arg("weight")
        if weight is not None and weight.name in stored:
            call = Call(node)
            for attribute in ("groups", "num_groups"):
                if call.has(attribute):
                    counts[stored[weight.name]] = call.arg(attribute)
    return counts


def _conv(module: nn.Module, groups: int | None) -> None:
    assert isinstance(module, _ConvNd)  # the table below says so
    module.groups = module.groups if groups is None else groups
    first, second = module.weight.shape[:2]
    if isinstance(module, _ConvTransposeNd):
        module.in_channels, module.out_channels = first, second * module.groups
    else:
        module.in_channels, module.out_channels = second * module.groups, first


def _linear(module: nn.Module, _groups: int | None) -> None:
    assert isinstance(module, nn.Linear)
    module.out_features, module.in_features = module.weight.shape


def _batch_norm(module: nn.Module, _groups: int | None) -> None:
    assert isinstance(module, _NormBase)
    held = module.weight if module.weight is not None else module.running_mean
    if held is not None:
        module.num_features = len(held)


def _layer_norm(module: nn.Module, _groups: int | None) -> None:
    assert isinstance(module, (nn.LayerNorm, nn.RMSNorm))
    if module.weight is not None:
        module.normalized_shape = tuple(module.weight.shape)


def _group_norm(module: nn.Module, groups: int | None) -> None:
    assert isinstance(module, nn.GroupNorm)
    if module.weight is not None:
        module.num_groups, module.num_channels = groups or module.num_groups, len(module.weight)


def _embedding(module: nn.Module, _groups: int | None) -> None:
    assert isinstance(module, nn.Embedding)
    module.num_embeddings, module.embedding_dim = module.weight.shape


def _prelu(module: nn.Module, _groups: int | None) -> None:
    assert isinstance(module, nn.PReLU)
    module.num_parameters = len(module.weight)


def _recurrent(module: nn.Module, _groups: int | None) -> None:
    assert isinstance(module, nn.RNNBase)
    gates = {"LSTM": 4, "GRU": 3}.get(module.mode, 1)
    into = module.get_parameter("weight_ih_l0")
    module.input_size, module.hidden_size = into.shape[1], into.shape[0] // gates
    if module.proj_size:
        module.proj_size = len(module.get_parameter("weight_hr_l0"))
    module._flat_weights = [getattr(module, name) for name in module._flat_weights_names]


def _cell(module: nn.Module, _groups: int | None) -> None:
    assert isinstance(module, nn.RNNCellBase)
    module.input_size, module.hidden_size = module.weight_ih.shape[1], module.weight_hh.shape[1]


def _multihead(module: nn.Module, _groups: int | None) -> None:
    """Whole heads went, as many dims as of the width: else the class cannot express it."""
    assert isinstance(module, nn.MultiheadAttention)
    if module.in_proj_weight is not None:
        rows, width = module.in_proj_weight.shape
        if rows == 3 * width and width % module.head_dim == 0:
            module.embed_dim = module.kdim = module.vdim = width
            module.num_heads = width // module.head_dim


_PATCHES: dict[
    type[nn.Module] | tuple[type[nn.Module], ...], Callable[[nn.Module, int | None], None]
] = {
    _ConvNd: _conv,
    nn.Linear: _linear,
    _NormBase: _batch_norm,
    (nn.LayerNorm, nn.RMSNorm): _layer_norm,
    nn.GroupNorm: _group_norm,
    nn.Embedding: _embedding,
    nn.PReLU: _prelu,
    nn.RNNBase: _recurrent,
    nn.RNNCellBase: _cell,
    nn.MultiheadAttention: _multihead,
}
