"""A network with early exits: trained whole, run only as far as each sample needs.

It is a chain of segments, the pieces of the captured network between the exits. `forward` runs all
of it and gives what every exit says; `infer` runs a segment only for the samples that no exit
before it has let go.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from penjing.adaptive.apart import mixes
from penjing.adaptive.criteria import ExitPolicy, Memory
from penjing.adaptive.exit_task import exit_task
from penjing.adaptive.heads import Head, layout_of, make_head
from penjing.adaptive.points import Point
from penjing.errors import InputError, StrategyError
from penjing.graph.capture import Program
from penjing.graph.form import graph_form, identity
from penjing.graph.parts import Flow, outputs_of, part
from penjing.task import Task
from penjing.task.batches import prediction


@dataclass(frozen=True, slots=True)
class Exited:
    """Answers of a network with early exits.

    Args:
        outputs: Class scores, each from the exit that its sample took, `(N, C)`.
        exits: Number of that exit, int64, `(N,)`; the network's own end has the last number.
    """

    outputs: Tensor
    exits: Tensor


@dataclass(frozen=True, slots=True)
class Attachment:
    """Where an exit is attached.

    Args:
        name: Of the place in the network.
        feature: Which of the values that cross there it reads.
        shape: Of that value without the batch.
        share: MACs of the original network up to there, as a share of all.
    """

    name: str
    feature: int
    shape: tuple[int, ...]
    share: float


class EarlyExitNetwork(nn.Module):
    """A network that answers at several depths.

    Args:
        segments: Pieces of the network in a row; each but the last gives a tuple of tensors, which
            the next one takes.
        heads: One per early exit.
        attachments: One per early exit.
        policy: Who leaves where.
        frozen: The segments are not trained: they stay in eval mode and get no gradient.

    Raises:
        StrategyError: Their numbers do not fit together.
    """

    def __init__(
        self,
        segments: Sequence[nn.Module],
        heads: Sequence[nn.Module],
        attachments: Sequence[Attachment],
        policy: ExitPolicy | None = None,
        *,
        frozen: bool = False,
    ) -> None:
        super().__init__()
        if not len(segments) - 1 == len(heads) == len(attachments):
            raise StrategyError(
                f"{len(segments)} segments need {len(segments) - 1} heads and attachments, "
                f"not {len(heads)} and {len(attachments)}"
            )
        self.segments = nn.ModuleList(segments)
        self.heads = nn.ModuleList(heads)
        self.attachments = tuple(attachments)
        self.policy = policy or ExitPolicy.closed(len(heads))
        self.frozen = frozen
        if frozen:
            self.segments.requires_grad_(requires_grad=False)
        self.eval()

    @classmethod
    def of(
        cls,
        program: Program,
        points: Sequence[Point],
        head: Head = "auto",
        *,
        freeze_trunk: bool = False,
        seed: int = 0,
    ) -> Self:
        """Attach fresh heads to a captured network.

        Args:
            program: The network; not changed, its tensors are copied.
            points: Where, in the order of the network.
            head: What kind.
            freeze_trunk: Train the heads alone.
            seed: Of their weights.

        Raises:
            InputError: The network's output is not one tensor of class scores per sample, or
                samples see each other behind an exit.
        """
        outputs = _check_outputs(program)
        pieces = segment(program, points)
        _check_apart(pieces[1:])
        segments = [graph_form(piece) for piece in pieces]
        tie(segments, pieces)
        heads, attachments = [], []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for piece, point in zip(pieces[1:], points, strict=True):
                at = piece.inputs.index(point.node)
                feature = piece.example[at]
                made = make_head(head, feature, layout_of(program.nodes[point.node]), outputs)
                heads.append(made.to(feature.device, feature.dtype))
                shape = tuple(feature.shape[1:])
                attachments.append(Attachment(point.name, at, shape, point.share))
        return cls(segments, heads, attachments, frozen=freeze_trunk)

    def train(self, mode: bool = True) -> Self:
        """Training mode; frozen segments stay in eval mode, so that no statistics move.

        Args:
            mode: Training or not.

        Returns:
            Itself.
        """
        super().train(mode)
        if self.frozen:
            self.segments.eval()
        return self

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        """What every exit says, the network's own end last.

        Args:
            args: As the original network takes them.
            kwargs: Likewise.

        Returns:
            Class scores `(N, C)` of each exit.
        """
        values = self.segments[0](*args, **kwargs)
        said = []
        for index, head in enumerate(self.heads):
            said.append(head(values[self.attachments[index].feature]))
            values = self.segments[index + 1](*values)
        return (*said, score_of(values))

    @torch.no_grad()
    def infer(self, *args: Any, **kwargs: Any) -> Exited:
        """Answers, each from the first exit that its sample can take; run this in eval mode.

        Args:
            args: As the original network takes them.
            kwargs: Likewise.

        Returns:
            Outputs and exits. Behind an exit only the samples that are left are computed.

        Raises:
            StrategyError: The network is in training mode, or its policy is of another length.
        """
        if self.training:
            raise StrategyError("the network is in training mode; call .eval() before .infer()")
        if len(self.policy.thresholds) != len(self.heads):
            raise StrategyError(
                f"the policy has {len(self.policy.thresholds)} thresholds for {len(self.heads)} "
                "early exits"
            )
        values, memory = self.segments[0](*args, **kwargs), Memory()
        outputs = exits = alive = torch.empty(0)
        for index in range(len(self.heads)):
            logits, leaves, memory = self.stage(index).decide(values, memory)
            if index == 0:
                outputs = torch.empty_like(logits)
                exits = torch.full_like(leaves, len(self.heads), dtype=torch.int64)
                alive = torch.arange(len(leaves), device=leaves.device)
            gone = alive[leaves]
            outputs[gone], exits[gone] = logits[leaves], index
            alive = alive[~leaves]
            if not len(alive):
                return Exited(outputs, exits)
            if len(gone):
                values = tuple(value[~leaves] for value in values)
                memory = tuple(value[~leaves] for value in memory)
            values = self.segments[index + 1](*values)
        outputs[alive] = score_of(values)
        return Exited(outputs, exits)

    def task(self, task: Task, weights: Sequence[float] | None = None) -> Task:
        """The task of the original network, with loss and metrics over all exits.

        Args:
            task: Of the original network.
            weights: Of the exits in the loss, the network's own end last; None is all alike.

        Returns:
            What `pj.train` takes for this network.
        """
        return exit_task(task, len(self.segments), weights)

    def routed(self) -> RoutedNetwork:
        """The same network, called like the original: one output, computed by `infer`."""
        return RoutedNetwork(self)

    def stage(self, index: int) -> Stage:
        """A segment with its exit and the decision there."""
        return Stage(self, index)

    def original(self) -> nn.Module:
        """The network without early exits: its segments in a row, as they are now."""
        return Trunk(list(self.segments))

    def truncated(self, index: int) -> nn.Module:
        """The network that ends at an exit, the head included."""
        feature = self.attachments[index].feature
        return Trunk(list(self.segments)[: index + 1], feature, self.heads[index])


class Stage(nn.Module):
    """One segment, the exit behind it, and who leaves there.

    Args:
        network: Its network.
        index: Number of the segment.
    """

    def __init__(self, network: EarlyExitNetwork, index: int) -> None:
        super().__init__()
        self.index, self.policy = index, network.policy
        self.segment = network.segments[index]
        last = index == len(network.heads)
        self.head = None if last else network.heads[index]
        self.feature = 0 if last else network.attachments[index].feature
        remembers = network.policy.criterion == "patience"
        self.remembered = 2 if remembers and 0 < index < len(network.heads) else 0
        self.training = network.training

    def decide(self, values: Sequence[Tensor], memory: Memory) -> tuple[Tensor, Tensor, Memory]:
        """Class scores, who leaves, and what the next stage must know.

        Args:
            values: What the segment gave.
            memory: What the stage before gave.
        """
        assert self.head is not None  # only early exits decide
        logits = self.head(values[self.feature])
        leaves, memory = self.policy.leaving(self.index, logits, memory)
        return logits, leaves, memory

    def forward(self, *given: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        """Class scores, who leaves, what the next stage must know, what the next segment takes.

        Args:
            given: What the stage before knows, then what the segment takes.
            kwargs: Likewise, for the first stage.

        Returns:
            Of the last stage class scores alone.
        """
        memory, values = given[: self.remembered], given[self.remembered :]
        made = self.segment(*values, **kwargs)
        if self.head is None:
            return (score_of(made),)
        logits, leaves, memory = self.decide(made, memory)
        return (logits, leaves, *memory, *made)


class RoutedNetwork(nn.Module):
    """A network with early exits, called like the one it was made from.

    Args:
        network: With its policy; shared, not copied.
    """

    def __init__(self, network: EarlyExitNetwork) -> None:
        super().__init__()
        self.network = network
        self.training = network.training

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Answers, each from the exit that its sample takes.

        Args:
            args: As the original network takes them.
            kwargs: Likewise.

        Returns:
            Class scores `(N, C)`.
        """
        if torch.compiler.is_exporting():
            raise InputError(
                "which layers run depends on the data, so the routed network is not captured; "
                "capture the network itself, which gives every exit's outputs, or export it with "
                "pj.export(network, example_inputs, 'net.onnx'), which writes its conditions"
            )
        return self.network.infer(*args, **kwargs).outputs


class Trunk(nn.Module):
    """Segments in a row, and perhaps a head on what the last of them gives.

    Args:
        segments: Shared, not copied.
        feature: Which of the values the head reads.
        head: None where the last segment is the end of the network.
    """

    def __init__(
        self, segments: Sequence[nn.Module], feature: int = 0, head: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.segments = nn.ModuleList(segments)
        self.feature, self.head = feature, head
        self.training = segments[0].training

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Run all of it.

        Args:
            args: As the original network takes them.
            kwargs: Likewise.

        Returns:
            Class scores `(N, C)`.
        """
        values = self.segments[0](*args, **kwargs)
        for piece in list(self.segments)[1:]:
            values = piece(*values)
        return score_of(values) if self.head is None else self.head(values[self.feature])


def segment(program: Program, points: Sequence[Point]) -> list[Program]:
    """The pieces of a program between points, each over what crosses there."""
    flow = Flow(program)
    borders = [flow.crossing(program.nodes[point.node]) for point in points]
    first: list[fx.Node] = [program.nodes[name] for name in program.inputs]
    starts, ends = [first, *borders], [*borders, outputs_of(program)]
    return [part(program, start, end) for start, end in zip(starts, ends, strict=True)]


def put(module: nn.Module, field: str, tensor: Tensor) -> None:
    """Let a module hold a tensor itself, in place, as a parameter or buffer like the one it had."""
    store: dict[str, Any] = module._parameters if field in module._parameters else module._buffers
    store[field] = tensor


def score_of(outputs: Any) -> Tensor:
    """The class scores among a network's outputs."""
    leaves = [v for v in pytree.tree_leaves(prediction(outputs)) if isinstance(v, Tensor)]
    return leaves[0]


def _check_outputs(program: Program) -> int:
    """The number of class scores.

    Raises:
        InputError: The batch is fixed, or the output is something else.
    """
    if not program.dynamic_batch:
        raise InputError(
            "the network holds its batch fixed, and exits leave behind only some samples of a "
            "batch; give it a forward that takes any batch size in dimension 0"
        )
    with torch.no_grad():
        flat = program.run(program.example)
    found = prediction(program.unflatten_outputs(flat))
    tensors = [v for v in pytree.tree_leaves(found) if isinstance(v, Tensor)]
    shapes = [tuple(v.shape) for v in tensors]
    if len(shapes) != 1 or len(shapes[0]) != 2:
        raise InputError(
            f"the network gives {shapes or type(found).__name__}; exits need one tensor of class "
            "scores, (samples, classes)"
        )
    return int(shapes[0][1])


def _check_apart(pieces: Sequence[Program]) -> None:
    """Refuse to leave out samples that others need.

    Raises:
        InputError: Samples of a batch see each other in one of the pieces.
    """
    if any(map(mixes, pieces)):
        raise InputError(
            "behind an exit what a sample gets depends on the others of its batch, as in a batch "
            "norm without running statistics; attach exits behind that, or let each sample stand "
            "for itself in eval mode"
        )


def tie(segments: Sequence[nn.Module], pieces: Sequence[Program]) -> None:
    """Let segments that read one tensor of the network share it, in place.

    Args:
        segments: Graph forms.
        pieces: What each was made of.
    """
    shared: dict[tuple[Any, ...], Tensor] = {}
    for form, piece in zip(segments, pieces, strict=True):
        for name in piece.stored.values():
            owner, _, field = name.rpartition(".")
            module = form.get_submodule(owner)
            held = shared.setdefault(identity(piece.tensors[name]), getattr(module, field))
            put(module, field, held)
