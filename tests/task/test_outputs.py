"""Where the classes of outputs are: one rule, and what overrides it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from penjing.distillation import Decoupled, Logits
from penjing.errors import InputError
from penjing.graph.network import Network
from penjing.pruning.gradients import class_loss
from penjing.pruning.importance import Elementwise, Taylor
from penjing.pruning.masked import divergence
from penjing.pruning.saliency import Fisher
from penjing.task import Calibration, Task, compare
from penjing.task.outputs import Outputs

CLASSES = 5
GENERATOR = torch.Generator().manual_seed(0)
SHAPES = {"classifier": (6, CLASSES), "tagger": (6, 4, CLASSES), "segmenter": (6, CLASSES, 3, 2)}
NAMES = list(SHAPES)


def scores(name: str) -> Tensor:
    return torch.randn(SHAPES[name], generator=GENERATOR)


def rows(name: str, value: Tensor) -> list[Tensor]:
    """Scores of every position, written out by hand."""
    if name == "classifier":
        return [value[b] for b in range(6)]
    if name == "tagger":
        return [value[b, t] for b in range(6) for t in range(4)]
    return [value[b, :, i, j] for b in range(6) for i in range(3) for j in range(2)]


def mean_divergence(name: str, wanted: Tensor, got: Tensor, temperature: float = 1.0) -> Tensor:
    terms = [
        F.kl_div((q / temperature).log_softmax(0), (p / temperature).softmax(0), reduction="sum")
        for p, q in zip(rows(name, wanted), rows(name, got), strict=True)
    ]
    return torch.stack(terms).mean()


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_of_criteria_is_the_cross_entropy_of_every_position(name: str) -> None:
    value = scores(name)
    positions = rows(name, value)
    labels = torch.randint(CLASSES, (len(positions),), generator=GENERATOR)
    by_hand = [-row.log_softmax(0)[k] for row, k in zip(positions, labels, strict=True)]
    shape = {"classifier": (6,), "tagger": (6, 4), "segmenter": (6, 3, 2)}[name]
    found = class_loss(value, labels.reshape(shape))
    torch.testing.assert_close(found, torch.stack(by_hand).mean())


@pytest.mark.parametrize("name", NAMES)
def test_a_teacher_is_compared_at_every_position(name: str) -> None:
    mine, theirs = scores(name), scores(name)
    found = Logits(weight=1.0, temperature=2.0)(mine, theirs)
    torch.testing.assert_close(found, 4 * mean_divergence(name, theirs, mine, 2.0))


@pytest.mark.parametrize("name", NAMES)
def test_decoupled_parts_of_equal_weight_add_up_to_it(name: str) -> None:
    theirs = torch.zeros(SHAPES[name])  # every class alike: the others have 4 of 5
    mine = scores(name)
    best = [row.softmax(0) for row in rows(name, mine)]
    target = torch.stack([-(0.2 * p[0].log() + 0.8 * (1 - p[0]).log()) for p in best]).mean()
    entropy = -(0.2 * torch.tensor(0.2).log() + 0.8 * torch.tensor(0.8).log())
    among = torch.stack([-(p[1:] / (1 - p[0])).log().mean() for p in best]).mean()
    wanted = target - entropy + among - torch.tensor(4.0).log()
    found = Decoupled(temperature=1.0, alpha=1.0, beta=1.0)(mine, theirs)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("name", NAMES)
def test_outputs_move_by_the_mean_divergence_of_their_positions(name: str) -> None:
    wanted, got = scores(name), scores(name)
    by_hand = 6 * float(mean_divergence(name, wanted.double(), got.double()))
    assert divergence(wanted, got, 6) == pytest.approx(by_hand)


@pytest.mark.parametrize("name", NAMES)
def test_agreement_counts_the_positions_with_the_same_best_class(name: str) -> None:
    value, other = scores(name), scores(name)
    same = [
        float(a.argmax() == b.argmax())
        for a, b in zip(rows(name, value), rows(name, other), strict=True)
    ]
    found = compare(_Fixed(value), _Fixed(other), [torch.zeros(6, 1)])
    assert found.agreement == pytest.approx(sum(same) / len(same))


class _Fixed(nn.Module):
    """Gives what it was made with."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        return self.value + 0 * x.sum()


class Tagger(nn.Module):
    """Scores of classes for every token, the classes last or in dimension 1."""

    def __init__(self, *, last: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.head, self.last = nn.Linear(3, 8), nn.Linear(8, CLASSES), last

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(F.relu(self.inner(x)))
        return found if self.last else found.transpose(1, 2)


def ranked(tagger: Tagger, importance: Taylor | Elementwise, outputs: Outputs) -> Tensor:
    data = Calibration.of([torch.randn(9, 4, 3, generator=torch.Generator().manual_seed(1))])
    network = Network.of(tagger.eval(), data.leaves[0][:1])
    read = Calibration.of(data, outputs=outputs)
    return importance.prepare(network, read)(tagger, network.groups["inner"])


@pytest.mark.parametrize("importance", [Taylor(), Elementwise(saliency=Fisher())], ids=str)
def test_criteria_without_labels_see_classes_wherever_they_are(
    importance: Taylor | Elementwise,
) -> None:
    last = ranked(Tagger(last=True), importance, Outputs())
    first = ranked(Tagger(last=False), importance, Outputs(class_dim=1))
    torch.testing.assert_close(first, last)


def test_the_direction_has_the_covariance_of_the_class_that_is_drawn() -> None:
    from penjing.pruning.gradients import _projection

    (out,) = Outputs().read(torch.randn(1, 2, CLASSES, generator=GENERATOR))
    noise = torch.randn(40_000, *out.value.shape, generator=GENERATOR)
    drawn = torch.stack([_projection(out, n) for n in noise[:1]])
    assert drawn.shape[1:] == out.value.shape
    directions = torch.vmap(lambda n: _projection(out, n))(noise).flatten(1)
    p_TV = out.value[0].softmax(-1)
    blocks = [torch.diag(p) - torch.outer(p, p) for p in p_TV]
    torch.testing.assert_close(
        directions.T @ directions / len(noise), torch.block_diag(*blocks), atol=0.01, rtol=0
    )


class Detector(nn.Module):
    """Scores and boxes under their names."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": x[..., :CLASSES], "boxes": x[..., CLASSES:]}


def test_with_a_kind_for_each_output_boxes_are_taught_too() -> None:
    task = Task(kind={"logits": "classes", "boxes": "values"})
    mine, theirs = (torch.randn(2, 9, CLASSES + 4, generator=GENERATOR) for _ in range(2))
    student, teacher = (task.predict(Detector(), x) for x in (mine, theirs))
    found = Logits(weight=1.0, temperature=1.0, kind=task.kind)(student, teacher)
    p, q = (x[..., :CLASSES].reshape(-1, CLASSES) for x in (theirs, mine))
    scores = F.kl_div(q.log_softmax(1), p.softmax(1), reduction="batchmean")
    boxes = F.mse_loss(mine[..., CLASSES:], theirs[..., CLASSES:])
    torch.testing.assert_close(found, (scores + boxes) / 2)


def kinds(outputs: object, read: Outputs | None = None) -> list[str]:
    return [out.kind for out in (read or Outputs()).read(outputs)]


def test_boxes_beside_logits_are_values() -> None:
    made = {"logits": torch.zeros(2, 9, CLASSES), "pred_boxes": torch.zeros(2, 9, 4)}
    assert kinds(made) == ["classes", "values"]


def test_without_names_the_first_that_can_be_scores_is() -> None:
    assert kinds((torch.zeros(2, 9, CLASSES), torch.zeros(2, 9, 4))) == ["classes", "values"]


def test_exits_and_auxiliary_heads_are_scores_alike() -> None:
    maps = {"out": torch.zeros(2, CLASSES, 8, 8), "aux": torch.zeros(2, CLASSES, 4, 4)}
    assert kinds(maps) == ["classes", "classes"]


def test_the_state_of_a_recurrent_layer_beside_scores_is_values() -> None:
    assert kinds((torch.zeros(7, 2, CLASSES), torch.zeros(1, 2, 16))) == ["classes", "values"]


def test_hidden_states_of_an_encoder_are_values() -> None:
    assert kinds({"last_hidden_state": torch.zeros(2, 7, 16)}) == ["values"]


def test_a_kind_for_each_output_decides() -> None:
    made = (torch.zeros(2, 4), torch.zeros(2, CLASSES))
    assert kinds(made, Outputs(("values", "classes"))) == ["values", "classes"]


def test_a_kind_by_name_decides() -> None:
    made = {"age": torch.zeros(2, 1), "gender": torch.zeros(2, 1)}
    assert kinds(made, Outputs({"age": "values", "gender": "binary"})) == ["values", "binary"]


def test_an_output_without_a_kind_is_named() -> None:
    with pytest.raises(InputError, match="nothing of the output 'gender'; it has age"):
        kinds({"age": torch.zeros(2, 1), "gender": torch.zeros(2, 1)}, Outputs({"age": "values"}))


def test_kinds_of_another_number_of_outputs_are_refused_with_their_shapes() -> None:
    with pytest.raises(InputError, match=r"2 entries.* for 1 .*: the only one \[2, 5\]"):
        kinds(torch.zeros(2, CLASSES), Outputs(("values", "classes")))


def test_values_beside_scores_weigh_by_their_variance() -> None:
    wanted = {"logits": scores("classifier"), "boxes": torch.tensor([[0.0], [2.0]])}
    moved = {"logits": wanted["logits"], "boxes": torch.tensor([[0.0], [3.0]])}
    assert divergence(wanted, moved, 2) == pytest.approx(1.0)  # a change of 1 over a variance of 1


def test_labels_say_where_the_classes_of_a_sequence_are() -> None:
    value = torch.randn(2, CLASSES, 7, generator=GENERATOR)
    labels = torch.randint(CLASSES, (2, 7), generator=GENERATOR)
    torch.testing.assert_close(class_loss(value, labels), F.cross_entropy(value, labels))


def test_a_task_of_classes_in_another_dimension_compares_them_there() -> None:
    value = torch.randn(2, CLASSES, 7, generator=GENERATOR)
    data = [(torch.zeros(2, 1), value.argmax(1))]
    (first, *_) = compare(_Fixed(value), _Fixed(value), data, task=Task(val=data)).classes
    assert first.before == 1.0


def test_labels_in_another_order_than_the_decisions_tell_nothing_of_classes():
    model, x = nn.Linear(3, 4).eval(), torch.randn(5, 2, 3)  # (T, B, F)
    labels = model(x).argmax(-1)
    task = Task(batch_dims=(1,))
    assert all(row.after == 1 for row in compare(model, model, [(x, labels)], task=task).classes)
    assert not compare(model, model, [(x, labels.T.contiguous())], task=task).classes
