"""What every distillation loss promises, and what each is about."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from penjing.distillation import (
    AttentionTransfer,
    Contrastive,
    Decoupled,
    Logits,
    Regression,
    Relational,
)
from penjing.errors import InputError, StrategyError

OF_FEATURES = [AttentionTransfer(), Contrastive(), Regression(), Relational()]


def maps(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("loss", OF_FEATURES, ids=lambda loss: type(loss).__name__)
@pytest.mark.parametrize("shape", [(6, 5, 4, 4), (6, 7, 5)], ids=["maps", "sequences"])
def test_a_student_that_equals_its_teacher_costs_less_than_another(loss, shape):
    teacher = maps(*shape)
    assert loss((teacher,), (teacher,)) < loss((maps(*shape, seed=1),), (teacher,))


@pytest.mark.parametrize("loss", OF_FEATURES, ids=lambda loss: type(loss).__name__)
def test_widths_may_differ(loss):
    student = nn.Parameter(maps(6, 3, 4, 4))
    loss((student,), (maps(6, 5, 4, 4),)).backward()
    assert student.grad.isfinite().all()
    assert student.grad.abs().sum() > 0


@pytest.mark.parametrize("loss", OF_FEATURES, ids=lambda loss: type(loss).__name__)
def test_the_term_comes_on_top_of_the_loss_so_far(loss):
    mine, theirs = (maps(6, 3, 4, 4),), (maps(6, 5, 4, 4, seed=1),)
    alone = loss(mine, theirs)
    torch.testing.assert_close(loss(mine, theirs, torch.tensor(2.0)), 2.0 + alone)


@pytest.mark.parametrize("loss", OF_FEATURES, ids=lambda loss: type(loss).__name__)
def test_no_gradient_reaches_the_teacher(loss):
    student, teacher = nn.Parameter(maps(6, 3, 4, 4)), nn.Parameter(maps(6, 5, 4, 4, seed=1))
    loss((student,), (teacher,)).backward()
    assert teacher.grad is None


def test_decoupled_with_equal_parts_of_the_teacher_is_the_plain_divergence():
    """KL = TCKD + (1 - p_target) NCKD, equation 6 of the paper, on one sample."""
    student, teacher = maps(1, 4), maps(1, 4, seed=1)
    target = F.softmax(teacher, 1).max()
    whole = Logits(temperature=1.0, weight=1.0)(student, teacher)
    parts = Decoupled(temperature=1.0, alpha=1.0, beta=float(1 - target))(student, teacher)
    torch.testing.assert_close(parts, whole)


def test_decoupled_needs_classes_beside_the_target():
    with pytest.raises(InputError, match="three classes"):
        Decoupled()(maps(2, 2), maps(2, 2))


def test_attention_looks_at_positions_and_not_at_channels():
    teacher = maps(2, 4, 3, 3)
    shuffled = teacher[:, [2, 0, 3, 1]]
    torch.testing.assert_close(
        AttentionTransfer()((shuffled,), (teacher,)), torch.tensor(0.0), atol=1e-6, rtol=0
    )


def test_attention_refuses_other_positions_with_both_shapes():
    with pytest.raises(InputError, match=r"\(2, 4, 3, 3\) and \(2, 4, 5, 5\)"):
        AttentionTransfer()((maps(2, 4, 3, 3),), (maps(2, 4, 5, 5),))


def test_regression_reads_through_any_linear_map():
    student = maps(32, 6)
    teacher = student @ maps(6, 9, seed=1)
    assert Regression(ridge=1e-9)((student,), (teacher,)) < 1e-6


def test_regression_is_one_where_nothing_can_be_read():
    student, teacher = maps(4000, 2), maps(4000, 3, seed=1)
    torch.testing.assert_close(
        Regression()((student,), (teacher,)), torch.tensor(1.0), atol=0.01, rtol=0
    )


def test_regression_refuses_fewer_rows_than_channels():
    with pytest.raises(InputError, match="larger batches"):
        Regression()((maps(4, 8),), (maps(4, 8),))


def test_without_a_reader_regression_is_the_error_over_the_variance_of_each_channel():
    student, teacher = maps(6, 5, 4, 4), maps(6, 5, 4, 4, seed=1) + 3
    centred = teacher - teacher.mean((0, 2, 3), keepdim=True)
    wanted = ((student - teacher) ** 2).mean() / (centred**2).mean()
    torch.testing.assert_close(Regression(reader=False)((student,), (teacher,)), wanted)


def test_without_a_reader_regression_refuses_a_single_row():
    with pytest.raises(InputError, match="2 rows"):
        Regression(reader=False)((maps(1, 3),), (maps(1, 3),))


def test_without_a_reader_regression_refuses_other_widths():
    with pytest.raises(InputError, match="reader=True"):
        Regression(reader=False)((maps(6, 3, 4, 4),), (maps(6, 5, 4, 4),))


def test_relations_do_not_change_under_rotation_and_scale():
    teacher = maps(5, 3)
    turned = 7.0 * teacher @ torch.linalg.qr(maps(3, 3, seed=1))[0]
    torch.testing.assert_close(
        Relational()((turned,), (teacher,)), torch.tensor(0.0), atol=1e-5, rtol=0
    )


def test_relations_need_three_samples():
    with pytest.raises(InputError, match="3 at least"):
        Relational()((maps(2, 3),), (maps(2, 3),))


def test_contrast_needs_a_negative():
    with pytest.raises(InputError, match="2 at least"):
        Contrastive()((maps(1, 3),), (maps(1, 3),))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Decoupled(beta=0),
        lambda: AttentionTransfer(weight=-1),
        lambda: Regression(ridge=float("nan")),
        lambda: Relational(angle=0),
        lambda: Contrastive(temperature=0),
    ],
)
def test_settings_outside_their_range_are_refused(make):
    with pytest.raises(StrategyError, match="above 0"):
        make()
