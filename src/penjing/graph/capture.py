"""Capture: a network as a functional ATen graph with lifted tensors.

Pre-dispatch ATen in eval mode, so that `conv2d`, `linear` and `batch_norm` stay whole. The batch
dimension is dynamic where the network allows it.
"""

from __future__ import annotations

import inspect
import io
import logging
import re
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from penjing.errors import CaptureError, InputError, PenjingError
from penjing.graph.batching import batch_dims
from penjing.graph.experts import batched_experts
from penjing.graph.functional import functionalise
from penjing.task.randomness import evaluating
from penjing.task.samples import Dims, count, cut

Example = Tensor | tuple[Any, ...] | list[Any] | dict[str, Any]
"""A tensor, a tuple (positional) or a dict (keywords)."""

SEQUENCE_RANK = 2  # tokens are (batch, position)
DATA_ROWS = 5  # stand for rows that only the data counts: few, and no size that networks have
MIN_BATCH = 2  # torch.export specialises sizes 0 and 1, so the batch is captured with two samples


def call_args(example: Example) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Split `example_inputs` into positional and keyword arguments of the network.

    Example:
        >>> call_args({"x": 1})
        ((), {'x': 1})
    """
    if isinstance(example, dict):
        return (), dict(example)
    if isinstance(example, (tuple, list)):
        return tuple(example), {}
    return (example,), {}


@dataclass(frozen=True, eq=False)
class Program:
    """An exported network. Stored tensors and user inputs are the graph's placeholders.

    Args:
        graph_module: Functional ATen graph; outputs are a flat tuple.
        stored: Placeholder name -> qualified name of its parameter, buffer or lifted constant.
        tensors: Qualified name -> tensor, as the network holds them (tied names share one tensor).
        parameters: Qualified names that are parameters.
        buffers: Qualified names that are buffers of the state dict or not; constants are in
            neither.
        inputs: Placeholder names of the user's inputs, in flattened order (None entries are left
            out).
        example: Flattened example inputs, at least two samples where the batch is dynamic.
        in_spec: Tree of (args, kwargs).
        out_spec: Tree of the outputs.
        dynamic_batch: Whether the batch of every input may differ from the example's.
        functional_rewrite: True when in-place writes to views forced a full rewrite, in which
            dropout is lost.
        transient: Qualified names of buffers that the state dict leaves out.
        batch_dims: Per flat input the dimension of the batch; None where there is none.
    """

    graph_module: fx.GraphModule
    stored: Mapping[str, str]
    tensors: Mapping[str, Tensor]
    parameters: frozenset[str]
    buffers: frozenset[str]
    inputs: tuple[str, ...]
    example: tuple[Any, ...]
    in_spec: pytree.TreeSpec
    out_spec: pytree.TreeSpec
    dynamic_batch: bool
    functional_rewrite: bool
    transient: frozenset[str] = frozenset()
    batch_dims: Dims = ()

    @property
    def batch(self) -> int:
        """Samples of the example."""
        return self.samples(self.example)

    def samples(self, flat: Sequence[Any]) -> int:
        """Samples of flat inputs; 1 where none of them has a batch."""
        return count(flat, self.batch_dims) or 1

    def head(self, flat: Sequence[Any], samples: int) -> list[Any]:
        """The first samples of flat inputs, wherever their batch is."""
        return cut(flat, self.batch_dims, 0, samples)

    def batch_dim(self, node: fx.Node) -> int | None:
        """Dimension of the batch in a node's single tensor; None where it is not told apart.

        Without a free batch that is dimension 0.
        """
        if not self.dynamic_batch:
            return 0
        values = (self.nodes[name].meta["val"] for name in self.inputs)
        places = zip(values, self.batch_dims, strict=True)
        batch = next((v.shape[d].node.expr for v, d in places if d is not None), None)
        sizes = enumerate(node.meta["val"].shape)
        return next((d for d, s in sizes if is_free(s) and s.node.expr == batch), None)

    @property
    def graph(self) -> fx.Graph:
        """The graph itself."""
        return self.graph_module.graph

    @cached_property
    def nodes(self) -> Mapping[str, fx.Node]:
        """Every node by name, in topological order."""
        return {node.name: node for node in self.graph.nodes}

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        """Shape of a node's single tensor at the example's sizes."""
        return concrete_shape(node.meta["val"])

    @property
    def example_inputs(self) -> Example:
        """The example as the network is called with it: a tuple, or a dict of keywords alone."""
        args, kwargs = pytree.tree_unflatten(list(self.example), self.in_spec)
        given: Example = args if args or not kwargs else kwargs
        return given

    def flatten_inputs(self, batch: Example) -> list[Any]:
        """Inputs of one call as a flat list in the order of `inputs`.

        Raises:
            InputError: The structure differs from the example's.
        """
        leaves, spec = pytree.tree_flatten(call_args(batch))
        if spec != self.in_spec:
            raise InputError(
                f"inputs have the structure {spec}, the network was captured with {self.in_spec}"
            )
        return leaves

    def unflatten_outputs(self, flat: Sequence[Any]) -> Any:
        """The network's own output structure from the graph's flat outputs."""
        return pytree.tree_unflatten(list(flat), self.out_spec)

    def bind(
        self, inputs: Sequence[Any], tensors: Mapping[str, Tensor] | None = None
    ) -> dict[str, Any]:
        """Values of all placeholders: stored tensors (or replacements) and flat user inputs."""
        tensors = self.tensors if tensors is None else {**self.tensors, **tensors}
        values: dict[str, Any] = {name: tensors[fqn] for name, fqn in self.stored.items()}
        values.update(zip(self.inputs, inputs, strict=True))
        return values

    def run(
        self,
        inputs: Sequence[Any],
        tensors: Mapping[str, Tensor] | None = None,
        each: Callable[[fx.Node, Any], Any] | None = None,
    ) -> list[Any]:
        """Run the graph on flat inputs.

        Args:
            inputs: Flat user inputs, as `flatten_inputs` gives them.
            tensors: Replacements by qualified name, for instance masked or randomised weights.
            each: Called with every node and its value; what it returns goes on in its place.

        Returns:
            Flat outputs.
        """
        values = self.bind(inputs, tensors)
        placed = (values[p.name] for p in self.graph.nodes if p.op == "placeholder")
        module = self.graph_module
        runner = fx.Interpreter(module) if each is None else _Watched(module, each)
        return list(runner.run(*placed))

    def inner(
        self,
        inputs: Sequence[Any],
        names: Collection[str],
        tensors: Mapping[str, Tensor] | None = None,
    ) -> tuple[list[Any], dict[str, Any]]:
        """Run the graph and keep some values on the way.

        Args:
            inputs: Flat user inputs.
            names: Nodes whose values are kept.
            tensors: Replacements by qualified name.

        Returns:
            Flat outputs, and the values by node name.
        """
        kept: dict[str, Any] = {}

        def keep(node: fx.Node, value: Any) -> Any:
            if node.name in names:
                kept[node.name] = value
            return value

        return self.run(inputs, tensors, keep), kept


class _Watched(fx.Interpreter):
    """Runs a graph and hands every value on through a function."""

    def __init__(self, module: fx.GraphModule, each: Callable[[fx.Node, Any], Any]) -> None:
        super().__init__(module)
        self._each = each

    def run_node(self, n: fx.Node) -> Any:
        return self._each(n, super().run_node(n))


def concrete_size(size: int | torch.SymInt) -> int:
    """A size at the example's values; as if there were `DATA_ROWS` where only the data decides."""
    if isinstance(size, int):
        return size
    if is_hinted(size):
        return int(size.node.hint or 0)
    filled = size.node.expr.subs(dict.fromkeys(unbacked(size), DATA_ROWS))
    return int(filled if filled.is_number else size.node.shape_env.size_hint(filled))


def is_hinted(size: int | torch.SymInt) -> bool:
    """Whether a size is known at the example's values, and does not depend on the data."""
    return isinstance(size, int) or size.node.has_hint()


def unbacked(size: torch.SymInt) -> set[Any]:
    """Symbols of a size that only the data gives a value."""
    from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

    return set(free_unbacked_symbols(size))


def concrete_shape(value: Tensor) -> tuple[int, ...]:
    """A (fake) tensor's shape at the example's values."""
    return tuple([s if type(s) is int else concrete_size(s) for s in value.shape])


def capture(model: nn.Module, example: Example) -> Program:
    """Capture `model` in eval mode; its mode, RNG and buffers are as before afterwards.

    Args:
        model: Any network that `torch.export` takes.
        example: A tensor, a tuple (positional) or a dict (keywords), on the device of the network.

    Returns:
        The captured program.

    Raises:
        InputError: The network does not run on `example`.
        CaptureError: `torch.export` failed; the message names the place.
    """
    check_network(model)
    with quiet_eval(model):
        outputs = check_runs(model, example)
        _make_known(outputs)
        dims = _batch_dims(model, example, outputs)
        exported, dynamic = _export(model, example, dims)
    return replace(_program(exported, example, dynamic, dims), batch_dims=dims)


def dims_of(model: nn.Module, example: Example) -> Dims:
    """Where the batch is in every flat input.

    Args:
        model: The network.
        example: Its example inputs.

    Returns:
        One dimension per flat input, None where there is none.

    Raises:
        InputError: The network does not run on `example`.
    """
    check_network(model)
    with quiet_eval(model):
        return _batch_dims(model, example, check_runs(model, example))


def _batch_dims(model: nn.Module, example: Example, outputs: Any) -> Dims:
    """Where the batch is in every input."""
    leaves, spec = pytree.tree_flatten(call_args(example))

    def run(flat: list[Any]) -> list[Any]:
        args, kwargs = pytree.tree_unflatten(flat, spec)
        with torch.no_grad():
            return pytree.tree_leaves(model(*args, **kwargs))

    return batch_dims(model, leaves, pytree.tree_leaves(outputs), run)


def _make_known(output: Any) -> None:
    """Tell torch of the dataclasses that a network returns, once per class, as export needs it."""
    if is_dataclass(output) and not isinstance(output, type):
        if pytree.tree_is_leaf(output):
            torch.export.register_dataclass(type(output))
        for part in fields(output):
            _make_known(getattr(output, part.name))
    elif isinstance(output, (list, tuple)):
        for value in output:
            _make_known(value)
    elif isinstance(output, dict):
        for value in output.values():
            _make_known(value)


def check_network(model: object) -> None:
    """Refuse what is no network that can be captured.

    Raises:
        InputError: It is no `nn.Module`, or one that is compiled or exported already.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError(
            "the network is a ScriptModule, which torch.export does not take; "
            "give the nn.Module that it was made from"
        )
    own = isinstance(model, fx.GraphModule) and "eval" in vars(model)  # what .module() gives
    if own or isinstance(model, torch.export.ExportedProgram):
        raise InputError(
            "the network is an exported program, which has no eval mode; give the nn.Module that "
            "it was made from, or torch.export.unflatten(program)"
        )
    if not isinstance(model, nn.Module):
        hint = "; load_state_dict it into your network first" if isinstance(model, dict) else ""
        raise InputError(f"the network is a {type(model).__name__}, not an nn.Module{hint}")


def check_runs(model: nn.Module, example: Example) -> Any:
    """Run the network once on the example, without gradient.

    Raises:
        InputError: It raised; shapes, dtypes and devices of inputs and weights are listed.
    """
    args, kwargs = call_args(example)
    weight = next((p for p in model.parameters()), None)
    for leaf in pytree.tree_leaves((args, kwargs)):
        if isinstance(leaf, Tensor):
            _check_input(leaf, weight)
    try:
        with torch.no_grad():
            return model(*args, **kwargs)
    except (
        RuntimeError,
        ValueError,
        TypeError,
        IndexError,
        AttributeError,
        KeyError,
        AssertionError,
    ) as error:
        seen = pytree.tree_map(lambda v: describe(v), (args, kwargs))
        dtype = f" with {weight.dtype} weights" if weight is not None else ""
        raise InputError(
            f"the network{dtype} does not run on the example inputs {seen[0] or seen[1]}: "
            f"{type(error).__name__}: {error}. Give inputs of the shape and dtype that its forward "
            "takes"
        ) from error


def _check_input(value: Tensor, weight: Tensor | None) -> None:
    if weight is not None and value.device != weight.device:
        raise InputError(
            f"the network is on {weight.device}, an example input on {value.device}; move one of "
            f"them: example_inputs.to({str(weight.device)!r})"
        )
    if value.numel() == 0:
        raise InputError(
            f"an example input is empty, {describe(value)}; give one sample at least, "
            "of the shape that the network takes"
        )
    if value.is_floating_point() and bool(torch.isnan(value).any()):
        raise InputError(
            f"an example input, {describe(value)}, holds NaN; random numbers will do: "
            "torch.randn(...)"
        )


def describe(value: Any) -> str:
    """Short description of an input: dtype and shape of a tensor, else its type."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    return type(value).__name__


@contextmanager
def quiet_eval(model: nn.Module) -> Iterator[None]:
    """Eval mode and no warnings inside; modes, buffers and the RNG as before afterwards.

    Stacked experts of `transformers` run inside in the way that can be captured.
    """
    generator = torch.get_rng_state()
    try:
        with evaluating(model), batched_experts(model), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_rng_state(generator)


def _export(
    model: nn.Module, example: Example, dims: Dims
) -> tuple[torch.export.ExportedProgram, bool]:
    """Export with a dynamic batch where possible, else with the example's sizes."""
    leaves, spec = pytree.tree_flatten(call_args(example))
    batch = _batch_size(leaves, dims)
    if batch is not None:
        repeat = MIN_BATCH if batch == 1 else 1
        many = [_repeat(v, d, repeat) for v, d in zip(leaves, dims, strict=True)]
        many_args, many_kwargs = pytree.tree_unflatten(many, spec)
        for free in (_free_dims, _free_batch):
            opened = [free(v, d) for v, d in zip(many, dims, strict=True)]
            open_args, open_kwargs = pytree.tree_unflatten(opened, spec)
            with _written_out(model, open_kwargs):
                bound = inspect.signature(model.forward).bind(*open_args, **open_kwargs)
            program = _try_export(model, many_args, many_kwargs, dict(bound.arguments))
            if not isinstance(program, Exception):
                dynamic = _has_dynamic_batch(program, dims)
                if dynamic or repeat == 1:
                    return program, dynamic
    return _export_fixed(model, example)


def _export_fixed(model: nn.Module, example: Example) -> tuple[torch.export.ExportedProgram, bool]:
    """Export with the example's sizes."""
    args, kwargs = call_args(example)
    program = _try_export(model, args, kwargs, None)
    if isinstance(program, Exception):
        raise CaptureError(_explain(program)) from program
    return program, False


def _batch_size(leaves: Sequence[Any], dims: Dims) -> int | None:
    """Size of the batch when all inputs that have one share it."""
    sizes = {v.shape[d] for v, d in zip(leaves, dims, strict=True) if d is not None}
    return sizes.pop() if len(sizes) == 1 else None


def _free_batch(value: Any, dim: int | None) -> Any:  # noqa: ARG001 - as its sibling
    return None if dim is None else {dim: torch.export.Dim.AUTO}


def _free_dims(value: Any, dim: int | None) -> Any:
    """The batch, and the positions of a sequence of tokens, where the network allows it."""
    if isinstance(value, Tensor) and value.dim() == SEQUENCE_RANK and not value.is_floating_point():
        return dict.fromkeys(range(SEQUENCE_RANK), torch.export.Dim.AUTO)
    return _free_batch(value, dim)


def _repeat(value: Any, dim: int | None, times: int) -> Any:
    return value if dim is None or times == 1 else torch.cat([value] * times, dim)


def _try_export(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], dims: Any
) -> torch.export.ExportedProgram | Exception:
    try:
        with torch.no_grad(), _torch_silent(), _written_out(model, kwargs):
            return torch.export.export(model, args, kwargs, dynamic_shapes=dims, strict=False)
    except Exception as error:  # noqa: BLE001 - of every kind; the caller raises the last
        return error


@contextmanager
def _written_out(model: nn.Module, kwargs: Mapping[str, Any]) -> Iterator[None]:
    """`forward` with the keywords that its `**` takes as its own: export opens no sizes behind it.

    Args:
        model: Its `forward` is as it was afterwards.
        kwargs: What it is called with.
    """
    plain, signature = model.forward, inspect.signature(model.forward)
    own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    more = [name for name in kwargs if name not in {p.name for p in own}]
    if not more or len(own) == len(signature.parameters):
        yield
        return

    def forward(*args: Any, **named: Any) -> Any:
        return plain(*args, **named)

    keywords = (inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in more)
    vars(forward)["__signature__"] = signature.replace(parameters=[*own, *keywords])
    held = vars(model).get("forward")
    vars(model)["forward"] = forward
    try:
        yield
    finally:
        del vars(model)["forward"]
        if held is not None:
            vars(model)["forward"] = held


def capture_once(model: nn.Module, example: tuple[tuple[Any, ...], dict[str, Any]]) -> None:
    """Export a network at the example's sizes for what happens on the way.

    Raises:
        CaptureError: The export failed.
    """
    with quiet_eval(model):
        program = _try_export(model, *example, None)
    if isinstance(program, Exception):
        raise CaptureError(_explain(program)) from program


@contextmanager
def _torch_silent() -> Iterator[None]:
    """Nothing printed inside: export writes whole graphs where it fails, before it says why."""
    logger = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


def _has_dynamic_batch(program: torch.export.ExportedProgram, dims: Dims) -> bool:
    inputs = set(program.graph_signature.user_inputs)
    values = [
        n.meta.get("val") for n in program.graph.nodes if n.op == "placeholder" and n.name in inputs
    ]
    shaped = (v for v in values if isinstance(v, Tensor) and v.dim())
    places = zip(shaped, (d for d in dims if d is not None), strict=True)
    return all(is_free(v.shape[d]) for v, d in places)


def is_free(size: int | torch.SymInt) -> bool:
    """Whether a size may differ; one that export has found out to be fixed is still a SymInt."""
    return isinstance(size, torch.SymInt) and size.node.maybe_as_int() is None


UNKNOWN_OUTPUT = re.compile(r"Found <class '([^']+)'> in output")


def _explain(error: Exception) -> str:
    """Say where export failed and what to change."""
    text = str(error)
    if isinstance(error, PenjingError):  # the network's own refusal says what to do
        return text
    found = UNKNOWN_OUTPUT.search(text)
    if found is not None:
        return (
            f"the network returns a {found[1].rpartition('.')[2]}, which torch.export does not "
            "know. To mend it, return tensors, tuples, dicts or dataclasses; a cache is switched "
            "off by use_cache=False in the call or in the network's config"
        )
    line = next((row.strip() for row in text.splitlines() if row.strip().startswith("File ")), "")
    head = text.strip().splitlines()[0] if text.strip() else "no message"
    hints: tuple[tuple[Callable[[str], bool], str], ...] = (
        (
            lambda t: "data-dependent" in t.lower() or "GuardOnDataDependent" in t,
            "replace the branch on tensor values by torch.where or torch.cond",
        ),
        (
            lambda t: "dynamic control flow" in t.lower(),
            "replace the branch on tensor values by torch.where or torch.cond",
        ),
        (
            lambda t: "pytree" in t.lower() or "register" in t.lower(),
            "return tensors, tuples or dicts, or switch caches off (use_cache=False)",
        ),
    )
    fix = next(
        (hint for test, hint in hints if test(text)),
        "make forward traceable: no .item(), no numpy, no branches on values",
    )
    return (
        f"torch.export could not capture the network: {type(error).__name__}: {head} {line}. "
        f"To mend it, {fix}"
    )


def _program(
    exported: torch.export.ExportedProgram, example: Example, dynamic: bool, dims: Dims
) -> Program:
    signature = exported.graph_signature
    exported, rewritten = functionalise(exported)
    signature = exported.graph_signature
    stored = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    tensors = {
        fqn: exported.state_dict[fqn] if fqn in exported.state_dict else exported.constants[fqn]
        for fqn in stored.values()
    }
    leaves = pytree.tree_leaves(call_args(example))
    repeat = MIN_BATCH if dynamic and _batch_size(leaves, dims) == 1 else 1
    in_spec, out_spec = exported.call_spec.in_spec, exported.call_spec.out_spec
    placeholders = [
        n.name for n in exported.graph.nodes if n.op == "placeholder" and n.name not in stored
    ]
    return Program(
        graph_module=exported.graph_module,
        stored=stored,
        tensors=tensors,
        parameters=frozenset(signature.inputs_to_parameters.values()),
        buffers=frozenset(signature.inputs_to_buffers.values()),
        inputs=tuple(placeholders),
        example=tuple(_repeat(v, d, repeat) for v, d in zip(leaves, dims, strict=True)),
        in_spec=in_spec,
        out_spec=out_spec,
        dynamic_batch=dynamic,
        functional_rewrite=rewritten,
        transient=frozenset(signature.non_persistent_buffers),
    )
