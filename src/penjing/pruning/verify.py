"""Proof that a cut is right: the cut graph against the masked original, node by node.

Comparing network outputs alone is blind where a unit hardly reaches them, so every node of the cut
graph is compared with its masked original in one lockstep run in float64. Parameters and running
statistics are randomised around their values, so that a zero gamma or a dead head hides nothing.
Along an axis that statistics run over, the reference is computed here from the kept units, by
formulas of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from penjing.errors import VerificationError
from penjing.graph.axes import Dim
from penjing.graph.call import Call, op_name
from penjing.graph.capture import Program
from penjing.graph.network import Cut
from penjing.graph.rewrite import masked, renumbered, sliced
from penjing.plan import Group

TOLERANCE = 1e-9  # relative, float64: six digits above rounding, six below any real mistake
TRIES = 8  # a few samples and random weights leave a unit behind a ReLU silent now and then
CAST_TOLERANCE = 1e-4  # where the network itself casts to a narrower type


class Mismatch(VerificationError):
    """A node of the cut graph differs from its masked original.

    Args:
        message: Which node, and by how much.
        node: The node of the original graph.
    """

    def __init__(self, message: str, node: fx.Node) -> None:
        super().__init__(message)
        self.node = node


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a lockstep run showed.

    Args:
        error: Largest relative difference of any compared node.
        moved: Largest relative change of the outputs by masking.
        nodes: Nodes compared.
    """

    error: float
    moved: float
    nodes: int


def prove(cut: Cut, seed: int = 0) -> Evidence:
    """Compare a cut graph with its masked original, node by node.

    Args:
        cut: What goes.
        seed: Of the random weights and inputs; others are tried when they leave the units silent.

    Returns:
        How far the two differ and how far masking moved the outputs.

    Raises:
        Mismatch: A node differs by more than the tolerance.
        VerificationError: Masking moved nothing, so equality proves nothing; or the cut network's
            outputs are not finite where the original's are.
    """
    generator = torch.Generator().manual_seed(seed)
    program = cut.network.program
    broken = ""
    for _ in range(TRIES):
        tensors = randomised(program, generator)
        inputs = [random_like(v, generator) for v in program.example]
        lockstep = _Lockstep(cut, tensors, inputs)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            evidence = lockstep.walk()
        if lockstep.broken:  # random weights may do that now and then, a bad cut always does
            broken = lockstep.broken
        elif evidence.moved > 0.0 or not cut.plan.drop:
            return evidence
    if broken:
        raise VerificationError(
            f"after the cut, output {broken!r} is NaN or infinite where the original's is finite; "
            "the cut is refused: leave more units, or the layers before it as they are"
        )
    raise VerificationError(
        "masking the units of the plan moved no output, so the cut cannot be proved: "
        f"{sorted(cut.plan.drop)[:5]} do not reach the outputs on the example inputs"
    )


def silent(cut: Cut, groups: Sequence[Group], seed: int = 0) -> bool:
    """Whether units whose parameters are all zero add nothing, so that their cut changes nothing.

    They do add something where no parameter reads them: a sum over units counts `sigmoid(0)`.

    Args:
        cut: Units that go.
        groups: Those of the plan, with the slices that become zero.
        seed: Of the random weights and inputs.

    Raises:
        Mismatch: The cut itself is wrong.
    """
    generator = torch.Generator().manual_seed(seed)
    program = cut.network.program
    tensors = randomised(program, generator)
    for group in groups:
        for piece in group.slices:
            if piece.tensor in program.parameters:
                gone = [p for unit in cut.plan.drop[group.name] for p in piece.positions(unit)]
                index = torch.tensor(gone, dtype=torch.long)
                tensors[piece.tensor] = tensors[piece.tensor].index_fill(piece.dim, index, 0)
    inputs = [random_like(v, generator) for v in program.example]
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        return _Lockstep(cut, tensors, inputs).walk().moved <= TOLERANCE


def randomised(program: Program, generator: torch.Generator) -> dict[str, Tensor]:
    """Stored tensors in float64 on the CPU: parameters and running statistics moved at random.

    Names of one tensor get one value.
    """
    variances, means = _running_statistics(program)
    made: dict[int, Tensor] = {}
    for fqn, tensor in program.tensors.items():
        value = tensor.detach().cpu()
        if id(tensor) in made:
            continue
        if not value.is_floating_point():
            made[id(tensor)] = value
        elif fqn in variances:
            made[id(tensor)] = 0.5 + 1.5 * torch.rand(
                value.shape, generator=generator, dtype=torch.float64
            )
        else:
            noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
            parameter = fqn in program.parameters and value.numel() > 0
            made[id(tensor)] = (
                0.2 * noise
                if fqn in means
                else value.double() + (_noise_scale(value) * noise if parameter else 0.0)
            )
    return {fqn: made[id(tensor)] for fqn, tensor in program.tensors.items()}


def _noise_scale(parameter: Tensor) -> float:
    """Half the parameter's own spread, and more where it may be all zero."""
    scale = float(parameter.double().square().mean().sqrt())
    return 0.5 * scale + (0.1 if parameter.dim() < 2 or scale < 1e-3 else 0.0)


def random_like(value: Any, generator: torch.Generator) -> Any:
    """A finite float tensor as float64 noise of the same spread; anything else as it is."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return value.cpu() if isinstance(value, Tensor) else value
    value = value.detach().cpu().double()
    if not bool(torch.isfinite(value).all()):  # a mask
        return value
    spread = float(value.std()) if value.numel() > 1 else 1.0
    spread = spread if math.isfinite(spread) and spread > 0 else 1.0
    return value.mean() + spread * torch.randn(
        value.shape, generator=generator, dtype=torch.float64
    )


def relative_difference(got: Any, want: Any) -> float:
    """Largest absolute difference over the largest magnitude.

    Infinite when shapes differ, or a value is finite in one tensor alone.
    """
    if not isinstance(got, Tensor) or not isinstance(want, Tensor):
        return 0.0 if got == want else math.inf
    if got.shape != want.shape:
        return math.inf
    if want.is_complex() and got.is_complex():
        got, want = torch.view_as_real(got), torch.view_as_real(want)
    if want.numel() == 0 or not want.is_floating_point():
        return 0.0 if torch.equal(got, want) else math.inf
    got, want = got.detach().double(), want.detach().double()
    finite = torch.isfinite(want)
    if not torch.equal(finite, torch.isfinite(got)):
        return math.inf
    got, want = got[finite], want[finite]
    if want.numel() == 0:
        return 0.0
    return float((got - want).abs().max() / want.abs().max().clamp_min(1e-30))


def _running_statistics(program: Program) -> tuple[set[str], set[str]]:
    variances: set[str] = set()
    means: set[str] = set()
    for node in program.graph.nodes:
        if node.op == "call_function" and op_name(node) in {"batch_norm", "instance_norm"}:
            for name, found in (("running_var", variances), ("running_mean", means)):
                stored = Call(node).arg(name)
                if stored is not None:
                    found.add(program.stored.get(stored.name, ""))
    return variances, means


NARROW = (torch.float32, torch.float16, torch.bfloat16)
UNWRITTEN = frozenset(("empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided"))
"""Ops whose result is what the memory held before."""


def widened(value: Any) -> Any:
    """A narrower floating dtype as float64; anything else as it is."""
    return torch.float64 if isinstance(value, torch.dtype) and value in NARROW else value


class Widened(TorchFunctionMode):
    """Code that runs inside makes float64 wherever it asks for a narrower float."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run `func` with dtypes widened."""
        if func in (Tensor.float, Tensor.half, Tensor.bfloat16):
            func = Tensor.double
        args, named = pytree.tree_map(widened, (tuple(args), dict(kwargs or {})))
        return func(*args, **named)


class _Lockstep:
    """The original, the masked original and the cut graph, run side by side.

    Values are freed after their last use.
    """

    def __init__(self, cut: Cut, tensors: Mapping[str, Tensor], inputs: Sequence[Any]) -> None:
        self.cut = cut
        self.analysis = cut.network.analysis
        program = cut.network.program
        self.dense = program.bind(inputs, dict(tensors))
        self.masked: dict[str, Any] = {}
        self.small: dict[str, Any] = {}
        for node in program.graph.nodes:
            if node.op == "placeholder":
                dims, value = self.analysis.labels(node), self.dense[node.name]
                tensor = isinstance(value, Tensor)
                self.masked[node.name] = masked(value, dims, cut.kept) if tensor else value
                self.small[node.name] = sliced(value, dims, cut.kept) if tensor else value
        self.error, self.nodes = 0.0, 0
        self.broken = ""  # an output that only the cut graph makes NaN or infinite

    def walk(self) -> Evidence:
        """Run every node; the first that differs raises."""
        originals = self.cut.network.program.nodes
        last, last_small = (
            _last_uses(self.cut.network.program.graph),
            _last_uses(self.cut.program.graph),
        )
        for twin in self.cut.program.graph.nodes:
            if twin.op == "call_function":
                self._step(originals.get(twin.name), twin)
            elif twin.op == "output":
                moved = self._moved(originals[twin.name])
            for name in last_small.get(twin.name, ()):
                self.small.pop(name)
            for name in last.get(twin.name, ()):
                self.dense.pop(name), self.masked.pop(name)
        return Evidence(self.error, moved, self.nodes)

    def _step(self, old: fx.Node | None, twin: fx.Node) -> None:
        drawn = torch.get_rng_state()  # an op that draws random numbers draws the same each time
        self.small[twin.name] = _run(twin, self.small)
        if old is None:  # a size computed for the cut graph alone
            return
        torch.set_rng_state(drawn)
        self.dense[old.name] = _run(old, self.dense)
        torch.set_rng_state(drawn)
        value = reference(Call(old), self.masked, self.analysis.labels, self.cut.kept)
        labels = self.analysis.all_labels(old)
        self.masked[old.name] = _each(value, labels, lambda v, dims: masked(v, dims, self.cut.kept))
        want = _each(self.masked[old.name], labels, lambda v, dims: sliced(v, dims, self.cut.kept))
        self._compare(old, self.small[twin.name], self._renumbered(old, want))

    def _renumbered(self, old: fx.Node, want: Any) -> Any:
        """Values that number cut dimensions, as the cut graph numbers them."""
        dims = [self.analysis.numbers(old, n) for n in range(len(_leaves(want)))]
        if all(dim is None for dim in dims):
            return want
        values = [
            value if dim is None else renumbered(value, dim, self.cut.kept)
            for value, dim in zip(_leaves(want), dims, strict=True)
        ]
        return values if isinstance(want, (list, tuple)) else values[0]

    def _compare(self, node: fx.Node, got: Any, want: Any) -> None:
        pairs = zip(_leaves(got), _leaves(want), strict=True)
        error = max(
            (relative_difference(g, w) for g, w in pairs if isinstance(w, Tensor)), default=0.0
        )
        narrow = any(
            isinstance(w, Tensor) and w.is_floating_point() and w.dtype != torch.float64
            for w in _leaves(want)
        )
        if error > (CAST_TOLERANCE if narrow else TOLERANCE):
            raise Mismatch(
                f"after the cut, node {node.name!r} ({op_name(node)}) differs from the masked "
                f"original by {error:.1e} "
                f"(relative); the cut is refused",
                node,
            )
        self.error, self.nodes = max(self.error, error), self.nodes + 1

    def _moved(self, output: fx.Node) -> float:
        moved = 0.0
        for node in output.all_input_nodes:
            dense, hidden = self.dense[node.name], self.masked[node.name]
            if isinstance(dense, Tensor) and dense.is_floating_point():
                moved = max(moved, relative_difference(hidden, dense))
                if _finite(dense) and not _finite(self.small[node.name]):
                    self.broken = node.name
        return moved


def _finite(value: Tensor) -> bool:
    return bool(torch.isfinite(value).all())


def _last_uses(graph: fx.Graph) -> dict[str, list[str]]:
    """Node -> values that nobody reads after it."""
    last: dict[str, str] = {}
    for node in graph.nodes:
        for source in node.all_input_nodes:
            last[source.name] = node.name
    ends: dict[str, list[str]] = {}
    for name, node in last.items():
        ends.setdefault(node, []).append(name)
    return ends


def run_wide(program: Program, inputs: Sequence[Any], tensors: Mapping[str, Tensor]) -> list[Any]:
    """Run a whole program in float64.

    Args:
        program: The program.
        inputs: Flat inputs.
        tensors: Every stored tensor by qualified name, floating ones in float64.

    Returns:
        Flat outputs.
    """
    env: dict[str, Any] = program.bind(inputs, dict(tensors))
    last = _last_uses(program.graph)
    outputs: list[Any] = []
    for node in program.graph.nodes:
        if node.op == "call_function":
            env[node.name] = _run(node, env)
        elif node.op == "output":
            outputs = [env[n.name] if isinstance(n, fx.Node) else n for n in node.args[0]]
        for name in last.get(node.name, ()):
            env.pop(name)
    return outputs


def _run(node: fx.Node, env: Mapping[str, Any]) -> Any:
    return _run_double(Call(node), env)


def _run_double(call: Call, env: Mapping[str, Any]) -> Any:
    """Run an op with casts to narrower floats made casts to float64: the proof keeps its digits."""
    args, kwargs = pytree.tree_map(
        lambda a: env[a.name] if isinstance(a, fx.Node) else widened(a),
        (tuple(call.node.args), dict(call.node.kwargs)),
    )
    target: Any = call.node.target
    value = target(*args, **kwargs)
    if call.name in UNWRITTEN:  # holds whatever the memory held
        value = torch.zeros_like(value)
    return value


def _each(
    value: Any, labels: Sequence[list[Dim]], change: Callable[[Tensor, list[Dim]], Tensor]
) -> Any:
    if isinstance(value, Tensor):
        return change(value, labels[0])
    if isinstance(value, (list, tuple)):
        return [
            change(v, dims) if isinstance(v, Tensor) else v
            for v, dims in zip(value, labels, strict=True)
        ]
    return value


def _leaves(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


# ---------------------------------------------------------------- references over kept units


def reference(
    call: Call,
    env: Mapping[str, Any],
    labels: Callable[[fx.Node], list[Dim]],
    kept: Callable[[Dim], Tensor | None],
) -> Any:
    """What an op gives on masked inputs, with statistics over the kept positions only.

    Args:
        call: The op.
        env: Masked values by node name.
        labels: Labels of a node.
        kept: Positions that stay.

    Returns:
        The op's output in its original shape.
    """
    rule = _REFERENCES.get(call.name)
    source = call.tensors[0] if call.tensors else None
    if rule is None or source is None or all(kept(dim) is None for dim in labels(source)):
        return _run_double(call, env)
    x = env[source.name]
    stays = torch.ones_like(x)
    for axis, dim in enumerate(labels(source)):
        positions = kept(dim)
        if positions is not None:
            hole = torch.zeros(len(dim), dtype=x.dtype)
            hole[positions] = 1
            stays = stays * hole.view([-1 if j == axis else 1 for j in range(x.dim())])
    return rule(call, x, stays, env)


def _value(call: Call, name: str, env: Mapping[str, Any]) -> Any:
    argument = call.arg(name)
    return env[argument.name] if isinstance(argument, fx.Node) else argument


def _axes(call: Call, x: Tensor) -> list[int]:
    given = call.arg("dim") if call.has("dim") else None
    if given is None or given == []:
        return list(range(x.dim()))
    return [a % x.dim() for a in (given if isinstance(given, (list, tuple)) else [given])]


def _moments(x: Tensor, stays: Tensor, axes: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Count, mean and biased variance over kept positions; reduced axes keep size one."""
    count = stays.sum(axes, keepdim=True)
    mean = (x * stays).sum(axes, keepdim=True) / count
    variance = ((x - mean).square() * stays).sum(axes, keepdim=True) / count
    return count, mean, variance


def _squeeze(call: Call, value: Tensor, axes: list[int]) -> Tensor:
    keep = call.arg("keepdim", False) if call.has("keepdim") else False
    return value if keep else value.squeeze(tuple(axes))


def _mean(call: Call, x: Tensor, stays: Tensor, _env: Mapping[str, Any]) -> Tensor:
    axes = _axes(call, x)
    return _squeeze(call, _moments(x, stays, axes)[1], axes)


def _variance(call: Call, x: Tensor, stays: Tensor, _env: Mapping[str, Any]) -> Tensor:
    axes = _axes(call, x)
    count, _, variance = _moments(x, stays, axes)
    correction = (
        call.arg("correction", 1) if call.has("correction") else int(call.arg("unbiased", True))
    )
    variance = variance * count / (count - correction)
    return _squeeze(call, variance.sqrt() if call.name == "std" else variance, axes)


def _variance_and_mean(
    call: Call, x: Tensor, stays: Tensor, env: Mapping[str, Any]
) -> tuple[Tensor, Tensor]:
    spread = _variance(call, x, stays, env)
    return spread.sqrt() if call.name == "std_mean" else spread, _mean(call, x, stays, env)


def _extreme(call: Call, x: Tensor, stays: Tensor, _env: Mapping[str, Any]) -> Tensor:
    axes, sign = _axes(call, x), 1 if call.name == "amax" else -1
    hidden = (sign * x).masked_fill(stays == 0, -math.inf)
    return _squeeze(call, sign * hidden.amax(axes, keepdim=True), axes)


def _choice(call: Call, x: Tensor, stays: Tensor, env: Mapping[str, Any]) -> Any:
    """What is masked is never chosen."""
    if call.has("other"):
        return _run_double(call, env)
    most = call.arg("largest") if call.has("largest") else call.name in {"max", "argmax"}
    hidden = x.masked_fill(stays == 0, -math.inf if most else math.inf)
    return _run_double(call, {**env, call.tensors[0].name: hidden})


def _softmax(call: Call, x: Tensor, stays: Tensor, env: Mapping[str, Any]) -> Any:
    hidden = x.masked_fill(stays == 0, -math.inf)
    return _run_double(call, {**env, call.tensors[0].name: hidden})


def _layer_norm(call: Call, x: Tensor, stays: Tensor, env: Mapping[str, Any]) -> Tensor:
    rank = len(call.arg("normalized_shape"))
    axes = list(range(x.dim() - rank, x.dim()))
    count, mean, variance = _moments(x, stays, axes)
    if call.name == "rms_norm":
        mean, variance = (
            torch.zeros_like(mean),
            (x.square() * stays).sum(axes, keepdim=True) / count,
        )
    eps = call.arg("eps")
    y = (x - mean) / torch.sqrt(variance + (torch.finfo(torch.float64).eps if eps is None else eps))
    weight, bias = (
        _value(call, "weight", env),
        _value(call, "bias", env) if call.has("bias") else None,
    )
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def _group_norm(call: Call, x: Tensor, stays: Tensor, env: Mapping[str, Any]) -> Tensor:
    groups = call.arg("num_groups")
    runs = x.reshape(len(x), groups, -1)
    count, mean, variance = _moments(runs, stays.expand_as(x).reshape(runs.shape), [2])
    y = torch.where(
        count > 0, (runs - mean) / torch.sqrt(variance + call.arg("eps", 1e-5)), 0.0
    ).reshape(x.shape)
    return _affine(call, y, env)


def _batch_norm(call: Call, x: Tensor, stays: Tensor, env: Mapping[str, Any]) -> Tensor:
    instance = call.has("use_input_stats")
    if not call.arg("use_input_stats" if instance else "training"):
        plain: Tensor = _run_double(call, env)
        return plain
    axes = [a for a in range(x.dim()) if a > 1 or (a == 0 and not instance)]
    count, mean, variance = _moments(x, stays, axes)
    y = torch.where(count > 0, (x - mean) / torch.sqrt(variance + call.arg("eps")), 0.0)
    return _affine(call, y, env)


def _affine(call: Call, y: Tensor, env: Mapping[str, Any]) -> Tensor:
    """Scale and shift per channel, where the op has them."""
    shape = [1, -1] + [1] * (y.dim() - 2)
    weight, bias = _value(call, "weight", env), _value(call, "bias", env)
    y = y if weight is None else y * weight.view(shape)
    return y if bias is None else y + bias.view(shape)


_REFERENCES: dict[str, Callable[[Call, Tensor, Tensor, Mapping[str, Any]], Any]] = {
    "mean": _mean,
    "var": _variance,
    "std": _variance,
    "var_mean": _variance_and_mean,
    "std_mean": _variance_and_mean,
    "amax": _extreme,
    "amin": _extreme,
    **dict.fromkeys(("topk", "argmax", "argmin", "max", "min"), _choice),
    **dict.fromkeys(("softmax", "_softmax", "log_softmax", "_log_softmax"), _softmax),
    "layer_norm": _layer_norm,
    "rms_norm": _layer_norm,
    "group_norm": _group_norm,
    "batch_norm": _batch_norm,
    "instance_norm": _batch_norm,
}
