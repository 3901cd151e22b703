import pytest

from penjing.training import SCHEDULES
from penjing.training.schedules import schedule


@pytest.mark.parametrize("name", ["linear", "cosine", "one_cycle"])
def test_schedules_end_near_zero(name):
    assert SCHEDULES[name](1.0) == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_stay_between_zero_and_one(name):
    assert all(0 <= SCHEDULES[name](i / 100) <= 1 for i in range(101))


def test_warm_up_rises_from_zero_and_then_runs_the_whole_schedule():
    warmed = schedule("linear", 0.2)
    values = [warmed(p) for p in (0.0, 0.1, 0.2, 0.6, 1.0)]
    assert values == pytest.approx([0.0, 0.5, 1.0, 0.5, 0.0])


def test_one_cycle_has_its_own_warm_up():
    assert schedule("one_cycle", 0.2) is SCHEDULES["one_cycle"]


def test_a_function_of_progress_is_a_schedule():
    assert schedule(lambda progress: progress, 0.0)(0.25) == 0.25
