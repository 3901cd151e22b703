"""The graph form: a captured program as an `nn.Module` of its own.

It is called like the network it came from, holds its parameters and buffers under their own names,
and trains: norms and dropout obey `.train()` and `.eval()`, gradients flow, running statistics
move. What a capture bakes in is taken out again where that can be told: a training flag that was
off follows the mode, a device or floating dtype equal to the network's own follows `.to(...)`. A
dropout probability that `forward` itself switches off in eval mode is not in the capture, so it is
not in the form either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.graph import _PyTreeCodeGen, _PyTreeInfo
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from penjing.errors import CaptureError, InputError
from penjing.graph.capture import Program, is_free
from penjing.graph.ends import ENDS, module_ends

TRAINING_FLAGS = frozenset({"train", "training", "use_input_stats"})
"""Arguments of ATen ops that follow the mode of the network."""


class GraphForm(fx.GraphModule):
    """A captured program as a module; its representation is short, `.code` is the whole forward."""

    def __repr__(self) -> str:
        """What it is made of, in a line or two."""
        inputs = [n for n in self.graph.nodes if n.op == "placeholder"]
        ops = sum(isinstance(n.target, torch._ops.OpOverload) for n in self.graph.nodes)
        sizes = {n.args[0]: n.args[1] for n in self.graph.nodes if n.target is sized}
        taken = ", ".join(spelled(n.name, sizes.get(n)) for n in inputs)
        count = sum(p.numel() for p in self.parameters())
        origin = f"of {self.meta['original']}, " if "original" in self.meta else ""
        text = f"GraphForm({origin}inputs {taken}, {ops:,} ops, {count:,} parameters)"
        reason = self.meta.get("reason", "")
        return f"{text}\n  its own class does not serve: {reason}" if reason else text

    __str__ = __repr__


def spelled(name: str, sizes: Sequence[int | None] | None) -> str:
    """An input with its sizes, in words."""
    if sizes is None:
        return name
    return f"{name}[{', '.join('any' if size is None else str(size) for size in sizes)}]"


def graph_form(program: Program) -> fx.GraphModule:
    """Make a trainable module of a program; the program and its tensors are left as they are.

    Args:
        program: A captured network, cut or not.

    Returns:
        A module with the network's call signature and state-dict names, on the device of the
        program's tensors, in eval mode. Tensors are copies; names of one tensor share the copy.

    Raises:
        CaptureError: A tensor has a name that a graph module cannot hold.

    Example:
        >>> from penjing.graph.capture import capture
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
        >>> form = graph_form(capture(net, torch.ones(4, 2)))
        >>> list(form.state_dict()) == list(net.state_dict())
        True
    """
    copies = copy_tied(program.tensors)
    transient = frozenset(
        program.transient | (set(program.tensors) - program.parameters - program.buffers)
    )
    root = skeleton(copies, program.parameters, transient)
    graph = _Writer(program, root).write()
    return assemble(root, graph, transient)


def batch_norm(  # noqa: PLR0913 - called by generated code, one argument per field of the op
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    var: Tensor,
    training: bool,
    momentum: float,
    eps: float,
    tracked: Tensor | None = None,
) -> Tensor:
    """Batch norm as `nn.BatchNorm2d` does it.

    Args:
        x: Input, channels in dimension 1.
        weight: Scale per channel.
        bias: Shift per channel.
        mean: Running mean, moved in training.
        var: Running variance, moved in training.
        training: Whether the statistics of the batch are used.
        momentum: Share of the batch in the running statistics.
        eps: Added to the variance.
        tracked: Counter of training batches, raised by one in training.

    Returns:
        A tensor like `x`.
    """
    if training and tracked is not None:
        tracked.add_(1)
    return F.batch_norm(x, mean, var, weight, bias, training, momentum, eps)


def fixed(value: Any, expected: Any, name: str) -> None:
    """Refuse a plain input that differs from the one the network was captured with.

    Raises:
        InputError: It differs.
    """
    if isinstance(value, Tensor) or value != expected:
        raise InputError(
            f"input {name!r} is {value!r}, but the network was captured with {expected!r}, "
            "which the graph holds fixed; capture it again with the new value"
        )


def sized(value: Any, expected: tuple[int | None, ...], name: str) -> None:
    """Refuse a tensor whose sizes are others than the network was captured with.

    Args:
        value: What the network is called with.
        expected: Its sizes, None for one that may differ.
        name: Of the input.

    Raises:
        InputError: A size that the graph holds fixed differs, or it is no tensor.
    """
    if not isinstance(value, Tensor):
        raise InputError(f"input {name!r} is a {type(value).__name__}, not a tensor")
    shape = tuple(value.shape)
    if len(shape) != len(expected) or any(
        size is not None and size != have for size, have in zip(expected, shape, strict=True)
    ):
        raise InputError(
            f"{spelled(name, shape)} does not fit this graph form, which was captured with "
            f"{spelled(name, expected)} and holds those sizes fixed; give inputs of that size, or "
            "capture the network again with an example of the new one. A forward that reads sizes "
            "from its input (x.shape[0], or -1 in a view) leaves the batch open"
        )


def held_sizes(program: Program) -> dict[str, tuple[int | None, ...]]:
    """Sizes of each tensor input that a graph form holds fixed, None for the others.

    A batch that the capture could not free is tried: only one that the graph refuses is held.

    Args:
        program: A captured network.

    Returns:
        Sizes by the name of the input; inputs without a fixed size are left out.
    """
    found, held = {}, not (program.dynamic_batch or takes_another_batch(program))
    for name, batch in zip(program.inputs, program.batch_dims, strict=True):
        value = program.nodes[name].meta.get("val")
        if isinstance(value, Tensor) and value.dim() > 0:
            sizes = enumerate(value.shape)
            found[name] = tuple(
                None if (d == batch and not held) or is_free(s) else int(s) for d, s in sizes
            )
    return {name: sizes for name, sizes in found.items() if any(sizes)}


@torch.no_grad()
def takes_another_batch(program: Program) -> bool:
    """Whether the graph runs with one sample more than it was captured with.

    Args:
        program: A captured network whose batch is not free.
    """
    first = program.head(program.example, 1)
    places = zip(program.example, first, program.batch_dims, strict=True)
    more = [v if d is None else torch.cat([v, one], d) for v, one, d in places]
    try:
        with torch.random.fork_rng(devices=[]):
            program.run(more)
    except (RuntimeError, ValueError, IndexError):
        return False
    return True


def copy_tied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of tensors by name; names of one tensor share one copy, parameters stay parameters."""
    made: dict[tuple[Any, ...], Tensor] = {}
    copies: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        key = identity(tensor)
        if key not in made:
            fresh = tensor.detach().clone()
            made[key] = (
                nn.Parameter(fresh, tensor.requires_grad)
                if isinstance(tensor, nn.Parameter)
                else fresh
            )
        copies[name] = made[key]
    return copies


def identity(tensor: Tensor) -> tuple[Any, ...]:
    """Equal for two names of one tensor."""
    if tensor.numel() == 0:
        return (id(tensor),)
    return (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tuple(tensor.stride()))


def skeleton(
    tensors: Mapping[str, Tensor], parameters: frozenset[str], transient: frozenset[str]
) -> nn.Module:
    """Nested empty modules that hold `tensors` under their qualified names.

    Raises:
        CaptureError: A name is taken by an attribute of modules, such as `graph` or `forward`.
    """
    root = nn.Module()
    shared: dict[int, nn.Parameter] = {}
    for name, tensor in tensors.items():
        *path, field = name.split(".")
        module = root
        for depth, part in enumerate((*path, field)):
            if hasattr(fx.GraphModule if depth == 0 else nn.Module, part) or not part:
                raise CaptureError(
                    f"tensor {name!r}: a graph module cannot have a part called {part!r}; rename it"
                )
        for part in path:
            if part not in module._modules:
                module.add_module(part, nn.Module())
            module = module.get_submodule(part)
        if name in parameters:
            held = tensor if isinstance(tensor, nn.Parameter) else shared.get(id(tensor))
            if held is None:
                held = shared[id(tensor)] = nn.Parameter(tensor, tensor.is_floating_point())
            module.register_parameter(field, held)
        else:
            module.register_buffer(field, tensor.detach(), persistent=name not in transient)
    return root


def assemble(root: nn.Module, graph: fx.Graph, transient: frozenset[str]) -> fx.GraphModule:
    """Join modules and graph; `transient` buffers stay out of the state dict, copied or not."""
    form = GraphForm(root, graph, class_name="GraphForm")
    forget = partial(_make_transient, names=transient)
    forget(form)
    form._register_deepcopy_hook(forget)
    return form.eval()


def _make_transient(form: nn.Module, names: frozenset[str]) -> None:
    for name in sorted(names):
        owner, _, field = name.rpartition(".")
        module = form.get_submodule(owner)
        tensor = module._buffers.pop(field)
        module.register_buffer(field, tensor, persistent=False)


def calling_convention(
    in_spec: pytree.TreeSpec, out_spec: pytree.TreeSpec, leaves: Sequence[str]
) -> _PyTreeCodeGen:
    """Code generation for the user's call; a positional leaf is named like its placeholder."""
    positional, keywords = in_spec.child(0), in_spec.child(1)
    names, at = [], 0
    for i, child in enumerate(positional.children()):
        names.append(leaves[at] if child.is_leaf() else f"arg_{i}")
        at += child.num_leaves
    return _PyTreeCodeGen(
        _PyTreeInfo([*names, *keywords.context], _copyable(in_spec), _copyable(out_spec))
    )


def _copyable(spec: pytree.TreeSpec) -> pytree.TreeSpec:
    """The same tree without `LeafSpec`, whose deep copy warns."""
    children = [_copyable(child) for child in spec.children()]
    return pytree.TreeSpec(spec.type, spec.context, children)


class _Writer:
    """Writes the graph of the form from the graph of a program."""

    def __init__(self, program: Program, root: nn.Module) -> None:
        self.program = program
        self.root = root
        self.graph = fx.Graph()
        self.new: dict[fx.Node, fx.Node] = {}
        self.modes: dict[str, fx.Node] = {}
        self.fqn = {self.program.nodes[name]: fqn for name, fqn in program.stored.items()}
        self.at: dict[str, fx.Node] = {}
        own = next((t for t in program.tensors.values() if t.is_floating_point()), None)
        self.own = (
            own
            if own is not None
            else next((v for v in program.example if isinstance(v, Tensor)), None)
        )
        self.follow: dict[str, fx.Node] = {}

    def write(self) -> fx.Graph:
        inputs = [self.program.nodes[name] for name in self.program.inputs]
        for node in inputs:
            self.new[node] = self.graph.create_node("placeholder", node.name, name=node.name)
        for node, fqn in self.fqn.items():
            self.new[node] = self.at[fqn] = self.graph.create_node("get_attr", fqn, name=node.name)
        self._check_inputs(inputs)
        for node in self.program.graph.nodes:
            if node.op == "get_attr":
                setattr(
                    self.root,
                    str(node.target),
                    getattr(self.program.graph_module, str(node.target)),
                )
                self.new[node] = self.graph.create_node("get_attr", node.target, name=node.name)
            elif node.op == "call_function":
                self.new[node] = self._call(node)
            elif node.op == "output":
                self.graph.output(fx.map_arg(list(node.args[0]), self.new.__getitem__))
        for name, node in module_ends(self.program).items():
            self.new[node].meta.setdefault(ENDS, []).append(name)
        self.graph.set_codegen(
            calling_convention(
                self.program.in_spec, self.program.out_spec, [n.name for n in inputs]
            )
        )
        return self.graph

    def _check_inputs(self, inputs: Sequence[fx.Node]) -> None:
        for node, value in zip(inputs, self.program.example, strict=True):
            if not isinstance(value, Tensor):
                self.graph.call_function(fixed, (self.new[node], value, node.name))
        for name, sizes in held_sizes(self.program).items():
            node = self.new[self.program.nodes[name]]
            self.graph.call_function(sized, (node, sizes, name))

    def _call(self, node: fx.Node) -> fx.Node:
        args: Sequence[Any]
        args, kwargs = fx.map_arg((tuple(node.args), dict(node.kwargs)), self.new.__getitem__)
        target = node.target
        if (
            target is torch.ops.aten.batch_norm.default
            and node.args[3] is not None
            and not node.args[5]
        ):
            return self._batch_norm(node, tuple(args))
        if isinstance(target, torch._ops.OpOverload):
            args, kwargs = self._unbake(target, list(args), dict(kwargs))
        return self.graph.create_node("call_function", target, tuple(args), kwargs, name=node.name)

    def _batch_norm(self, node: fx.Node, args: tuple[Any, ...]) -> fx.Node:
        x, weight, bias, mean, var, _, momentum, eps, *_ = args
        owner = self.fqn.get(node.args[3], "").rpartition(".")[0]  # type: ignore[arg-type] # running mean is a node
        tracked = self.at.get(f"{owner}.num_batches_tracked".lstrip("."))
        call = (x, weight, bias, mean, var, self._mode(owner), momentum, eps, tracked)
        return self.graph.create_node("call_function", batch_norm, call, name=node.name)

    def _mode(self, owner: str) -> fx.Node:
        """The training flag of module `owner` ("" is the whole network)."""
        if owner not in self.modes:
            target = f"{owner}.training".lstrip(".")
            self.modes[owner] = self.graph.create_node("get_attr", target, name="training")
        return self.modes[owner]

    def _unbake(
        self, target: torch._ops.OpOverload, args: list[Any], kwargs: dict[str, Any]
    ) -> tuple[list[Any], dict[str, Any]]:
        for i, argument in enumerate(target._schema.arguments):
            place: Any = args if i < len(args) else kwargs
            key: Any = i if i < len(args) else argument.name
            value = args[i] if i < len(args) else kwargs.get(argument.name)
            if argument.name in TRAINING_FLAGS and value is False:
                place[key] = self._mode("")
            elif (
                self.own is not None
                and isinstance(value, torch.device)
                and value == self.own.device
            ):
                place[key] = self._own("device")
            elif self.own is not None and value is self.own.dtype and value.is_floating_point:
                place[key] = self._own("dtype")
        return args, kwargs

    def _own(self, attribute: str) -> fx.Node:
        """The network's device or dtype when it runs."""
        if attribute not in self.follow:
            values = {
                **self.program.tensors,
                **dict(zip(self.program.inputs, self.program.example, strict=True)),
            }
            names = {node: self.fqn.get(node, node.name) for node in self.new}
            holder = next(
                self.new[node] for node, name in names.items() if values.get(name) is self.own
            )
            self.follow[attribute] = self.graph.call_function(getattr, (holder, attribute))
        return self.follow[attribute]
