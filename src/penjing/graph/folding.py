"""Folding: a program without batch norms behind its layers, and without what changes no value.

Inference needs neither the norm behind a convolution, which is a scale and a shift of its output,
nor dropout. Compiler and quantization both start from the folded program. A norm scales rows of a
weight, so weights that are zero stay zero.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, fx, nn

from penjing.graph.call import Call, is_tensor, op_name
from penjing.graph.capture import Program
from penjing.graph.norms import Norm, stored_norm

LINEAR = frozenset({"linear"})
CONVOLUTIONS = frozenset({"conv1d", "conv2d", "conv3d"})
TRANSPOSED = frozenset({"conv_transpose1d", "conv_transpose2d", "conv_transpose3d"})
IDENTITIES = frozenset(
    {
        "alias",
        "alpha_dropout",
        "clone",
        "contiguous",
        "detach",
        "dropout",
        "feature_alpha_dropout",
        "feature_dropout",
        "lift_fresh_copy",
    }
)
"""Ops that change no value in eval mode."""

_MATRIX = 2  # dimensions of an output (samples, channels)


@dataclass(frozen=True, slots=True)
class FoldedNorm:
    """A batch norm that became part of the layer before it.

    Args:
        layer: Node of the layer.
        norm: The norm, by the names of its tensors.
        weight: Qualified name of the layer's weight, before and after.
        bias: Qualified name of the layer's bias; None where it has none of its own.
        becomes: Qualified name of the bias of the folded layer.
        dim: Dimension of the weight along which output channels lie.
        groups: Convolution groups, where these channels are counted within a group.
    """

    layer: str
    norm: Norm
    weight: str
    bias: str | None
    becomes: str
    dim: int
    groups: int

    def values(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Weight and bias of the folded layer; gradients pass through.

        Args:
            tensors: Those of the layer and the norm by qualified name.
        """
        scale, shift = self.norm.affine(tensors)
        old = tensors[self.weight]
        if self.bias is not None:
            shift = shift + scale * tensors[self.bias].double()
        weight = _scaled(old.double(), scale, self.dim, self.groups)
        return weight.to(old.dtype), shift.to(old.dtype)


def fold_norms(program: Program) -> Program:
    """Fold batch norms into the layer before them and drop what changes no value.

    A norm is folded into a convolution, transposed convolution or linear layer that nothing else
    reads and whose weight is stored and used once; other norms stay. A layer without a bias gets
    one, called like its weight with `bias` in place of `weight`.

    Args:
        program: A captured network, in eval mode; only read.

    Returns:
        A program that computes the same up to rounding. The nodes that are left keep their names;
        stored tensors that nothing reads any more are gone.

    Example:
        >>> from torch import nn
        >>> from penjing.graph.capture import capture
        >>> net = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.BatchNorm2d(2), nn.Dropout())
        >>> folded = fold_norms(capture(net, torch.ones(2, 1, 3, 3)))
        >>> [n.name for n in folded.graph.nodes if n.op == "call_function"], sorted(folded.tensors)
        (['conv2d'], ['0.bias', '0.weight'])
    """
    return folded_norms(program)[0]


def folded_norms(program: Program) -> tuple[Program, list[FoldedNorm]]:
    """What `fold_norms` gives, and how to fold again when the norms or their layers change.

    Args:
        program: A captured network, in eval mode; only read.

    Returns:
        The folded program, and what was folded, in the order in which it is to be folded again.
    """
    folder = _Folder(program)
    for node in list(folder.graph.nodes):
        if node.op == "call_function" and _changes_nothing(node):
            node.replace_all_uses_with(node.args[0])
            folder.graph.erase_node(node)
        elif node.target is torch.ops.aten.view.default:
            node.target = torch.ops.aten.reshape.default  # its input may not be contiguous now
    for node in list(folder.graph.nodes):
        if op_name(node) == "batch_norm":
            folder.fold(node)
    return folder.program(), folder.folds


def norms_as_layers(program: Program) -> Program:
    """Write the batch norms that are left as depthwise convolutions of one tap.

    Args:
        program: A folded program; only read.

    Returns:
        A program that computes the same up to rounding; nodes keep their names. Norms of
        (samples, channels) and norms whose statistics are computed stay.
    """
    folder = _Folder(program)
    for node in list(folder.graph.nodes):
        if op_name(node) == "batch_norm":
            folder.as_layer(node)
    return folder.program()


def channel_dim(node: fx.Node) -> int:
    """Dimension of a layer's weight along which output channels lie."""
    return 1 if op_name(node) in TRANSPOSED else 0


def is_layer(node: fx.Node) -> bool:
    """Whether a node is a linear layer, a convolution or a transposed one."""
    return op_name(node) in LINEAR | CONVOLUTIONS | TRANSPOSED


def _changes_nothing(node: fx.Node) -> bool:
    return (
        op_name(node) in IDENTITIES
        and is_tensor(node)
        and isinstance(node.args[0], fx.Node)
        and not Call(node).arg("train", False)
    )


@dataclass(eq=False)
class _Folder:
    """A copy of a program's graph and tensors, folded norm by norm."""

    original: Program
    graph: fx.Graph = field(init=False)
    tensors: dict[str, Tensor] = field(init=False)
    stored: dict[str, str] = field(init=False)
    added: set[str] = field(init=False, default_factory=set)
    dead: set[str] = field(init=False, default_factory=set)
    folds: list[FoldedNorm] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.graph = fx.Graph()
        twins: dict[fx.Node, fx.Node] = {}
        for old in self.original.graph.nodes:
            twin = twins[old] = self.graph.node_copy(old, lambda n: twins[n])
            twin.name, twin.meta = old.name, dict(old.meta)
        self.tensors = dict(self.original.tensors)
        self.stored = dict(self.original.stored)
        self._memory = Counter(t.data_ptr() for t in self.tensors.values() if t.numel())

    @torch.no_grad()
    def fold(self, norm: fx.Node) -> None:
        """Fold one batch norm, where that can be done."""
        call = Call(norm)
        layer, known = call.arg("input"), stored_norm(self.stored, norm)
        if known is None or not self._takes(layer):
            return
        own = Call(layer)
        fold = self._described(layer, known)
        weight, bias = fold.values(self.tensors)
        self.tensors[fold.weight] = self._like(fold.weight, weight)
        if fold.bias is None:
            added = self._add_bias(own.arg("weight"), fold.weight, bias)
            own.set_arg("bias", added)
            self.folds.append(replace(fold, becomes=self.stored[added.name]))
        else:
            self.tensors[fold.bias] = self._like(fold.bias, bias)
            self.folds.append(fold)
        norm.replace_all_uses_with(layer)
        owner = self.stored[call.arg("running_mean").name].rpartition(".")[0]
        self.dead.add(f"{owner}.num_batches_tracked".lstrip("."))
        arguments = [n for n in norm.all_input_nodes if n.name in self.stored]
        self.graph.erase_node(norm)
        self.dead.update(self.stored[n.name] for n in arguments if not n.users)

    @torch.no_grad()
    def as_layer(self, norm: fx.Node) -> None:
        """Turn one batch norm into a depthwise convolution, where that can be done."""
        call = Call(norm)
        source, dims = call.arg("input"), len(self.original.shape(norm)) - _MATRIX
        known = stored_norm(self.stored, norm)
        if known is None or not 1 <= dims <= len(CONVOLUTIONS):
            return
        owner = self.stored[call.arg("running_mean").name].rpartition(".")[0]
        arguments = [n for n in norm.all_input_nodes if n.name in self.stored]
        kind = self.tensors[self.stored[arguments[0].name]].dtype
        scale, shift = (v.to(kind) for v in known.affine(self.tensors))
        weight = self._add(
            arguments[0], f"{owner}.folded.weight", scale.view(-1, *(1,) * (dims + 1))
        )
        bias = self._add(arguments[0], f"{owner}.folded.bias", shift)
        norm.target = getattr(torch.ops.aten, f"conv{dims}d").default
        ones, zeros = [1] * dims, [0] * dims
        norm.args = (source, weight, bias, ones, zeros, ones, len(scale))
        norm.kwargs = {}
        self.dead.add(f"{owner}.num_batches_tracked".lstrip("."))
        self.dead.update(self.stored[n.name] for n in arguments if not n.users)

    def program(self) -> Program:
        """The folded program."""
        for node in list(self.graph.nodes):
            if self.stored.get(node.name) in self.dead and not node.users:
                del self.stored[node.name]
                self.graph.erase_node(node)
        left = set(self.stored.values())
        module = fx.GraphModule(self.original.graph_module, self.graph)
        return replace(
            self.original,
            graph_module=module,
            stored=self.stored,
            tensors={fqn: t for fqn, t in self.tensors.items() if fqn in left},
            parameters=(self.original.parameters | self.added) & left,
            buffers=self.original.buffers & left,
            transient=self.original.transient & left,
        )

    def _takes(self, layer: object) -> bool:
        """Whether a norm can be folded into what is before it."""
        if not isinstance(layer, fx.Node) or not is_layer(layer) or len(layer.users) != 1:
            return False
        if op_name(layer) in LINEAR and len(self.original.shape(layer)) != _MATRIX:
            return False
        call = Call(layer)
        return all(
            self._own(given)
            for given in (call.arg("weight"), call.arg("bias"))
            if given is not None
        )

    def _described(self, layer: fx.Node, norm: Norm) -> FoldedNorm:
        """How a norm becomes part of a layer, by the names of what both store."""
        call, dim = Call(layer), channel_dim(layer)
        weight, bias = call.arg("weight"), call.arg("bias")
        given = None if bias is None else self.stored[bias.name]
        groups = int(call.arg("groups", 1)) if dim else 1
        return FoldedNorm(
            layer.name, norm, self.stored[weight.name], given, given or "", dim, groups
        )

    def _own(self, node: fx.Node) -> bool:
        """Whether a stored tensor is read once and shares no memory."""
        fqn = self.stored.get(node.name)
        once = len(node.users) == 1 and fqn is not None
        return once and (fqn in self.added or self._memory[self.tensors[fqn].data_ptr()] <= 1)  # type: ignore[index] # once says it is there

    def _like(self, fqn: str, value: Tensor) -> Tensor:
        """A new value in the dtype and the kind of what is stored under a name."""
        old = self.tensors[fqn]
        self._memory[old.data_ptr()] -= 1
        if fqn in self.original.parameters:
            self.added.add(fqn)
        return like(old, value)

    def _add_bias(self, weight: fx.Node, fqn: str, value: Tensor) -> fx.Node:
        """A stored bias beside a weight."""
        name = f"{fqn.rpartition('.')[0]}.bias".lstrip(".")
        return self._add(weight, name, value, weight.name.removesuffix("weight") + "bias")

    def _add(self, beside: fx.Node, fqn: str, value: Tensor, called: str = "") -> fx.Node:
        """A new stored tensor, of the kind of the one beside it."""
        fqn = fqn.lstrip(".")
        while fqn in self.tensors:
            fqn += "_folded"
        old = self.tensors[self.stored[beside.name]]
        trains = isinstance(old, nn.Parameter)
        self.tensors[fqn] = nn.Parameter(value, old.requires_grad) if trains else value
        self.added.add(fqn)
        with self.graph.inserting_after(beside):
            node = self.graph.placeholder(called or "p_" + fqn.replace(".", "_"))
        node.meta = {"val": beside.meta["val"].new_empty(value.shape)}
        self.stored[node.name] = fqn
        return node


def _scaled(weight: Tensor, scale: Tensor, dim: int, groups: int) -> Tensor:
    """Output channels of a weight times a scale each, which in dimension 1 are those of a group."""
    if dim == 0:
        return weight * scale.view(-1, *(1,) * (weight.dim() - 1))
    parts = zip(weight.chunk(groups), scale.chunk(groups), strict=True)
    return torch.cat([w * s.view(1, -1, *(1,) * (w.dim() - 2)) for w, s in parts])


def like(old: Tensor, value: Tensor) -> Tensor:
    """A value in the dtype and of the kind (parameter or not) of what it replaces."""
    fresh = value.detach().to(old.dtype)
    return nn.Parameter(fresh, old.requires_grad) if isinstance(old, nn.Parameter) else fresh


def layer_nodes(program: Program) -> Iterator[fx.Node]:
    """Every linear layer and convolution, in the order of the graph."""
    return (n for n in program.graph.nodes if n.op == "call_function" and is_layer(n))


def stored_names(program: Program, node: fx.Node) -> Mapping[str, str]:
    """Qualified names of a layer's stored weight and bias, by `weight` and `bias`."""
    call = Call(node)
    given = {key: call.arg(key) for key in ("weight", "bias")}
    return {
        key: program.stored[n.name]
        for key, n in given.items()
        if n is not None and n.name in program.stored
    }
