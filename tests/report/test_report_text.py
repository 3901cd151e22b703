"""The table and the words say what was measured, losses as plainly as gains."""

import dataclasses

import pytest

from penjing.figures import Figures, LatencyFigures
from penjing.report import Report, ReportData


def timed(before_ms, after_ms, ratio=None):
    def figures(ms, ratio):
        latency = LatencyFigures("onnxruntime 1.31.1", 1, 1, 50, ms, ms, ms, ratio)
        return Figures(100, 100, 1000, latency_ms=ms, latency=latency)

    before, after = figures(before_ms, None), figures(after_ms, ratio)
    return Report(ReportData("compress", "a net", before, after))


def line(report, label):
    return next(text for text in str(report).splitlines() if text.startswith(label))


def test_the_table_has_a_line_per_figure_that_was_had(full):
    labels = [text.split("  ")[0] for text in str(Report(full)).splitlines()[3:12]]
    assert labels == [
        "multiply-accumulates",
        "latency",
        "file size",
        "peak activation RAM",
        "parameters",
        "nonzero parameters",
        "accuracy",
        "loss",
        "agreement with the original",
    ]


def test_every_step_of_a_recovery_is_told_for_each_split(full):
    assert line(Report(full), "accuracy on test") == (
        "accuracy on test: original 93.39 %, cut 28.10 % (0.301 of it), "
        "repaired 91.48 % (0.980 of it), fine-tuned 93.02 % (0.996 of it)"
    )


def test_a_figure_that_was_not_had_has_no_line():
    assert "latency" not in str(Report(ReportData("prune", "a net", Figures(2, 2, 2))))


def test_a_faster_result_is_called_faster():
    assert line(timed(3.0, 2.0), "latency").endswith("1.50× faster")


def test_a_slower_result_is_called_slower():
    assert line(timed(2.0, 3.0), "latency").endswith("1.50× slower")


def test_the_paired_measurement_outweighs_the_medians():
    assert line(timed(2.0, 1.9, ratio=0.8), "latency").endswith("1.25× slower")


def test_a_latency_within_the_noise_is_no_win():
    assert line(timed(1.01, 1.0), "latency").endswith("about the same")


def test_a_metric_that_fell_is_called_lower(full):
    assert line(Report(full), "accuracy").endswith("1.77 points lower")


def test_an_unchanged_figure_is_called_unchanged():
    assert line(timed(2.0, 1.0), "parameters").endswith("unchanged")


def test_ratios_are_before_by_after():
    assert timed(3.0, 2.0).ratios["latency_ms"] == 1.5


def test_a_figure_that_fell_to_zero_has_no_ratio():
    before, after = Figures(10, 10, 10), Figures(10, 0, 10)
    assert "nonzero" not in Report(ReportData("prune", "a net", before, after)).ratios


@pytest.mark.parametrize(
    ("constraints", "verdict"),
    [
        ({"macs": "50%"}, "met"),
        ({"macs": "40%"}, "not met"),
        ({"macs": "1000"}, "not met"),
        ({"flash_kb": "2,000 kB"}, "met"),
        ({"flash_kb": "1700"}, "not met"),
        ({"latency_ms": "5"}, "met"),
        ({"max_drop": "0.0177"}, "met"),
        ({"max_drop": "1%"}, "not met"),
        ({"energy_mj": "3"}, "not measured"),
        ({"surprise": "3"}, "not measured"),
        ({"macs": "half"}, "not measured"),
    ],
)
def test_a_budget_is_judged_by_what_was_measured(full, constraints, verdict):
    report = Report(dataclasses.replace(full, constraints=constraints))
    assert line(report, "budget").split(": ")[1].split(" (")[0] == verdict


def test_without_labels_the_drop_is_one_minus_the_agreement(full):
    data = dataclasses.replace(
        full, metrics_before={}, metrics_after={}, constraints={"max_drop": "0.05"}
    )
    assert "not met (5.69 % answered differently)" in str(Report(data))


def test_a_metric_where_lower_is_better_may_fall():
    data = ReportData(
        "compress",
        "a net",
        metrics_before={"mse": 0.5},
        metrics_after={"mse": 0.4},
        higher_is_better={"mse": False},
        constraints={"max_drop": "0.01"},
    )
    assert ": met (mse 0.100 lower)" in str(Report(data))


def test_the_representation_is_short(full):
    assert repr(Report(full)) == "Report(kind='compress', title='ResNet-56 on CIFAR-10')"


def test_a_bound_on_latency_in_percent_is_judged_by_the_pairs(full):
    paired = dataclasses.replace(full.after.latency, ratio=2.5)
    after = dataclasses.replace(full.after, latency=paired)
    data = dataclasses.replace(full, after=after, constraints={"latency_ms": "41%"})
    assert "met (4.21 ms, 40.00 % of the original)" in str(Report(data))
