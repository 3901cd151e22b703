import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from penjing.distillation import Logits
from penjing.errors import InputError, StrategyError

STUDENT = torch.tensor([[1.0, 0.0, -1.0], [0.5, 0.5, 0.0]])
TEACHER = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 0.0]])


def test_the_term_is_the_softened_divergence_times_the_square_of_the_temperature():
    p, q = F.softmax(TEACHER / 2, 1), F.log_softmax(STUDENT / 2, 1)
    expected = 4 * F.kl_div(q, p, reduction="batchmean")
    torch.testing.assert_close(Logits(temperature=2.0, weight=1.0)(STUDENT, TEACHER), expected)


def test_the_weight_is_the_share_of_the_teacher():
    term = Logits(weight=1.0)(STUDENT, TEACHER)
    mixed = Logits(weight=0.25)(STUDENT, TEACHER, torch.tensor(2.0))
    torch.testing.assert_close(mixed, 0.75 * 2.0 + 0.25 * term)


def test_without_a_loss_the_teacher_stands_alone():
    alone = Logits(weight=0.25)(STUDENT, TEACHER)
    torch.testing.assert_close(alone, Logits(weight=1.0)(STUDENT, TEACHER))


def test_dense_outputs_weigh_as_much_as_one_per_sample():
    maps = (x[:, :, None, None].expand(-1, -1, 5, 5) for x in (STUDENT, TEACHER))
    torch.testing.assert_close(Logits()(*maps), Logits()(STUDENT, TEACHER))


def test_classes_can_be_the_last_dimension():
    sequence = (x[:, None].expand(-1, 4, -1) for x in (STUDENT, TEACHER))
    torch.testing.assert_close(Logits(class_dim=-1)(*sequence), Logits()(STUDENT, TEACHER))


def test_a_binary_logit_counts_as_a_choice_of_two():
    mine, theirs = STUDENT[:, :1], TEACHER[:, :1]
    pair = [torch.cat([x, torch.zeros_like(x)], 1) for x in (mine, theirs)]
    torch.testing.assert_close(Logits(kind="binary")(mine, theirs), Logits()(*pair))


def test_values_are_compared_by_squared_error():
    torch.testing.assert_close(
        Logits(kind="values", weight=1.0)(STUDENT, TEACHER), F.mse_loss(STUDENT, TEACHER)
    )


def test_several_outputs_count_equally():
    both = Logits()({"a": STUDENT, "b": TEACHER}, {"a": TEACHER, "b": TEACHER})
    torch.testing.assert_close(both, Logits()(STUDENT, TEACHER) / 2)


def test_no_gradient_flows_into_the_teacher():
    student, teacher = nn.Parameter(STUDENT.clone()), nn.Parameter(TEACHER.clone())
    Logits()(student, teacher).backward()
    assert student.grad is not None
    assert teacher.grad is None


def test_half_precision_is_computed_in_single():
    assert Logits()(STUDENT.half(), TEACHER.half()).dtype == torch.float32


def test_scores_far_apart_stay_finite():
    assert math.isfinite(Logits(temperature=1.0)(STUDENT * 1e4, -STUDENT * 1e4))


def test_a_teacher_of_other_classes_is_refused_with_both_shapes():
    with pytest.raises(InputError, match=r"\(2, 3\), the teacher \(2, 2\)"):
        Logits()(STUDENT, TEACHER[:, :2])


def test_single_scores_are_refused_as_classes():
    with pytest.raises(InputError, match='kind="binary"'):
        Logits()(STUDENT[:, :1], TEACHER[:, :1])


@pytest.mark.parametrize(
    "settings", [{"temperature": 0.0}, {"weight": 1.5}, {"weight": -0.1}, {"kind": "other"}]
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(StrategyError, match=next(iter(settings))):
        Logits(**settings)
