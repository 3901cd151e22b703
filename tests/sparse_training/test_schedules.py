import pytest

from penjing.errors import BudgetError, StrategyError
from penjing.sparse_training import SHAPES, SparsitySchedule


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_ends_at_the_final_sparsity(shape):
    schedule = SparsitySchedule(sparsity=0.9, shape=shape, end=0.5)
    assert schedule(0.5) == pytest.approx(0.9)
    assert schedule(1.0) == pytest.approx(0.9)


@pytest.mark.parametrize("shape", SHAPES)
def test_sparsity_never_falls(shape):
    schedule = SparsitySchedule(sparsity=0.9, shape=shape, start=0.1)
    values = [schedule(step / 100) for step in range(101)]
    assert values == sorted(values)


@pytest.mark.parametrize("shape", SHAPES)
def test_nothing_is_zero_before_the_window(shape):
    assert SparsitySchedule(sparsity=0.9, shape=shape, start=0.2)(0.19) == 0


def test_the_cubic_shape_is_that_of_zhu_and_gupta():
    schedule = SparsitySchedule(sparsity=0.8, shape="cubic", start=0.0, end=1.0)
    assert schedule(0.25) == pytest.approx(0.8 * (1 - 0.75**3))


def test_steps_hold_the_sparsity_between_them():
    schedule = SparsitySchedule(sparsity=0.8, shape="linear", end=1.0, steps=2)
    assert [schedule(p) for p in (0.49, 0.5, 0.99, 1.0)] == [0.0, 0.4, 0.4, 0.8]


def test_a_function_is_a_shape():
    assert SparsitySchedule(sparsity=0.5, shape=lambda p: p**2, end=1.0)(0.5) == 0.125


def test_a_schedule_that_ends_before_it_begins_is_refused():
    with pytest.raises(StrategyError, match=r"from 0\.5 to 0\.2"):
        SparsitySchedule(sparsity=0.5, start=0.5, end=0.2)


def test_an_unknown_shape_has_a_hint():
    with pytest.raises(StrategyError, match="did you mean 'cubic'"):
        SparsitySchedule(sparsity=0.5, shape="cubik")


def test_a_percentage_is_refused_with_the_share():
    with pytest.raises(BudgetError, match=r"90 percent is 0\.9"):
        SparsitySchedule(sparsity=90)
