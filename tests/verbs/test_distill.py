import pytest
import torch
from tests.training.toys import Net, X, Y, equal, task
from tests.verbs.deep import Deep
from torch import nn
from torch.nn import functional as F

from penjing.distillation import Logits
from penjing.errors import InputError, StrategyError
from penjing.task import Task, agreement
from penjing.verbs.distill import distill
from penjing.verbs.finetune import finetune
from penjing.verbs.shrink_like import shrink_like

QUICK = {"lr": 0.02, "progress": False, "keep": "last"}


def parent():
    return finetune(Net(), task(), epochs=20, lr=0.02, progress=False).model


def student():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))


def test_any_student_learns_from_its_teacher_without_labels():
    teacher, data = parent(), Task(train=[X[:16], X[16:32]], val=[(X[32:], Y[32:])])
    before = agreement(student(), teacher, data.val, task=data)
    done = distill(student(), teacher, data, epochs=30, **QUICK)
    assert agreement(done.model, teacher, data.val, task=data) > before


def test_the_student_passed_in_is_left_alone():
    mine = student()
    done = distill(mine, Net(), task(), **QUICK)
    assert equal(mine, student())
    assert not equal(done.model, mine)


def test_finetune_with_a_teacher_is_distill_by_logits():
    tuned = finetune(Net(), task(), teacher=parent(), **QUICK).model
    assert equal(tuned, distill(Net(), parent(), task(), **QUICK).model)


def test_several_teachers_are_told():
    done = distill(student(), [Net(), parent()], task(), epochs=1, **QUICK)
    assert done.report.data.choices["teacher"] == "Net, Net"


def test_losses_are_given_by_name_and_as_objects():
    done = distill(student(), Net(), task(), loss=["logits", Logits(weight=0.2)], epochs=1, **QUICK)
    assert done.report.data.choices["distillation"].count("Logits(") == 2


def test_an_unknown_loss_lists_the_known():
    with pytest.raises(StrategyError, match="'relational'"):
        distill(student(), Net(), task(), loss="kd")


class Detector(nn.Module):
    """Scores and boxes."""

    def __init__(self):
        super().__init__()
        self.scores, self.boxes = nn.Linear(6, 2), nn.Linear(6, 4)

    def forward(self, x):
        return {"logits": self.scores(x), "pred_boxes": self.boxes(x)}


@pytest.mark.parametrize(
    ("kind", "told"), [(None, 1), ({"logits": "classes", "pred_boxes": "values"}, 0)]
)
def test_outputs_that_are_not_taught_are_named(kind, told):
    data = Task(train=[X[:16]], kind=kind)
    notes = distill(Detector(), Detector(), data, epochs=2, **QUICK).report.data.notes
    assert sum("not the outputs 'pred_boxes'" in note for note in notes) == told


def test_a_teacher_of_other_classes_is_refused_with_both_shapes():
    with pytest.raises(InputError, match=r"\(8, 2\), the teacher \(8, 5\)"):
        distill(student(), nn.Linear(6, 5), task(), **QUICK)


def test_no_teacher_is_refused():
    with pytest.raises(InputError, match="no teacher"):
        distill(student(), [], task())


def test_values_are_distilled_as_values():
    data = Task(train=[X[:32]], val=[(X[32:], X[32:, :1])], loss=F.mse_loss, kind="values")
    teacher = nn.Linear(6, 1)
    done = distill(nn.Linear(6, 1), teacher, data, epochs=60, **{**QUICK, "lr": 0.05})
    gap = (done.model(X) - teacher(X)).abs().max()
    assert gap < 0.1


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))


def test_a_shrunk_student_keeps_evenly_spaced_units_of_its_parent():
    wide = net()
    small = shrink_like(wide, X[:1], pruning_ratio=0.75).model
    kept = [int((wide[0].weight == row).all(1).nonzero()) for row in small[0].weight]
    assert kept == [0, 4, 8, 12]


def test_a_shrunk_student_of_equal_cost_is_had_by_constraint():
    small = shrink_like(net(), X[:1], constraints={"macs": "50%"})
    assert small.report.data.after.macs <= 0.5 * small.report.data.before.macs


def test_fresh_weights_are_those_of_the_layers_own_initialisation():
    first, second = (
        shrink_like(net(), X[:1], pruning_ratio=0.5, weights="fresh", seed=7).model
        for _ in range(2)
    )
    assert equal(first, second)
    assert not (first[0].weight[:, None] == net()[0].weight).all(-1).any()


def kept(model):
    return [name for name, layer in model.layers.named_children() if list(layer.parameters())]


@pytest.mark.parametrize("scope", ["layers", "depth"])
def test_a_shallower_student_keeps_evenly_spaced_layers_without_data(scope):
    parent = Deep().eval()
    student = shrink_like(parent, torch.randn(4, 6), pruning_ratio=0.5, scope={scope}).model
    assert kept(student) == ["0", "2"]
    assert torch.equal(student.layers[2].up.weight, parent.layers[2].up.weight)


def test_a_student_shrinks_in_width_and_depth_at_once():
    student = shrink_like(
        Deep().eval(),
        torch.randn(4, 6),
        pruning_ratio=0.5,
        scope={"inner", "residual", "layers"},
    ).model
    assert kept(student) == ["0", "2"]
    assert student.layers[0].up.out_features < Deep().layers[0].up.out_features


def test_rounding_of_widths_leaves_the_number_of_layers_alone():
    student = shrink_like(
        Deep().eval(),
        torch.randn(4, 6),
        pruning_ratio=0.5,
        scope={"inner", "residual", "layers"},
        round_to=3,
    ).model
    assert kept(student) == ["0", "2"]


def test_unknown_layers_are_refused_by_a_loss_that_reads_none_too():
    with pytest.raises(InputError, match="the student has no module 'a'"):
        distill(student(), Net(), task(), layers={"a": "b"}, **QUICK)
