"""Report data is written and read without a loss; what is damaged or newer is refused by name."""

import dataclasses
import json
import math

import pytest
import torch

from penjing.errors import CheckpointError, InputError
from penjing.report import Histogram, Report, ReportData, environment
from penjing.report.data import REPORT_VERSION


def changed(data, **fields):
    return json.dumps({**json.loads(data.to_json()), **fields})


def test_a_full_report_survives_the_way_through_json(full):
    assert ReportData.from_json(full.to_json()) == full


def test_an_empty_report_survives_the_way_through_json():
    data = ReportData("prune", "a net")
    assert ReportData.from_json(data.to_json()) == data


def test_a_metric_that_is_not_finite_survives_the_way_through_json():
    data = ReportData("finetune", "a net", metrics_after={"loss": math.inf, "psnr": -math.inf})
    assert ReportData.from_json(data.to_json()) == data


def test_a_metric_that_is_not_a_number_is_read_as_such():
    data = ReportData("finetune", "a net", metrics_after={"loss": math.nan})
    assert math.isnan(ReportData.from_json(data.to_json()).metrics_after["loss"])


def test_the_json_is_what_every_other_language_reads(full):
    content = json.loads(full.to_json(), parse_constant=pytest.fail)  # no NaN, no Infinity
    assert content["version"] == REPORT_VERSION


def test_a_newer_version_is_refused_with_the_fix(full):
    with pytest.raises(CheckpointError, match=f"version {REPORT_VERSION + 1}.*upgrade penjing"):
        ReportData.from_json(changed(full, version=REPORT_VERSION + 1))


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"version": true}', "[" * 100_000, "null"])
def test_what_is_no_report_is_refused(text):
    with pytest.raises(CheckpointError, match="report"):
        ReportData.from_json(text)


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"title": 3}, "report.title must be text, got 3"),
        ({"kind": "guess"}, "report.kind must be one of"),
        ({"seconds": "long"}, "report.seconds must be a number"),
        ({"seconds": 10**400}, "report.seconds must be a number in range"),
        ({"agreement": True}, "report.agreement must be a number"),
        ({"groups": {}}, "report.groups must be a list"),
        ({"groups": [{"name": "g", "units": 4}]}, r"report.groups\[0\] lacks its field 'kept'"),
        ({"choices": {"seed": 0}}, r"report.choices\['seed'\] must be text"),
        ({"epochs": [{"loss": 1.0}]}, r"report.epochs\[0\] lacks its field 'epoch'"),
        ({"surprise": 1}, "field 'surprise'"),
        (
            {"histograms": [{"tensor": "w", "edges": [0.0], "before": [], "after": []}]},
            "histogram of 'w'",
        ),
    ],
)
def test_a_damaged_field_is_named(full, fields, place):
    with pytest.raises(CheckpointError, match=place):
        ReportData.from_json(changed(full, **fields))


def test_a_field_with_a_default_may_be_missing():
    text = json.dumps({"version": 1, "kind": "measure", "title": "a net"})
    assert ReportData.from_json(text) == ReportData("measure", "a net")


def test_a_saved_json_is_read_back(full, tmp_path):
    assert Report.read(Report(full).save(tmp_path / "new" / "report.json")).data == full


def test_a_missing_file_is_refused_with_its_path(tmp_path):
    with pytest.raises(CheckpointError, match=r"none\.json"):
        Report.read(tmp_path / "none.json")


def test_a_binary_file_is_refused(tmp_path):
    (tmp_path / "report.json").write_bytes(b"\x80\x04\x95pickle")
    with pytest.raises(CheckpointError, match="cannot be read"):
        Report.read(tmp_path / "report.json")


def test_another_suffix_is_refused(full, tmp_path):
    with pytest.raises(InputError, match=r"\.html or \.json, got 'report.pdf'"):
        Report(full).save(tmp_path / "report.pdf")


def test_a_refused_suffix_writes_nothing(full, tmp_path):
    with pytest.raises(InputError):
        Report(full).save(tmp_path / "report.pdf")
    assert not list(tmp_path.iterdir())


def test_report_data_cannot_be_changed(full):
    with pytest.raises(dataclasses.FrozenInstanceError):
        full.title = "another"


def test_a_histogram_counts_every_finite_value_once():
    values = torch.tensor([-2.0, -1.0, 0.0, 0.5, 1.0, math.nan])
    assert sum(Histogram.of("w", values, values).before) == 5


def test_values_beyond_the_original_range_fall_into_the_outer_bins():
    histogram = Histogram.of("w", torch.tensor([-1.0, 1.0]), torch.tensor([-9.0, 9.0]), bins=3)
    assert histogram.after == (1, 0, 1)


@pytest.mark.parametrize("values", [torch.zeros(3), torch.empty(0)], ids=["zeros", "empty"])
def test_a_histogram_of_nothing_to_spread_has_a_range_all_the_same(values):
    assert Histogram.of("w", values, values).edges[-1] == 1.0


def test_a_histogram_whose_bins_do_not_fit_is_refused():
    with pytest.raises(InputError, match="3 edges need 2 bins, got 1 before"):
        Histogram("w", (0.0, 1.0, 2.0), (1,), (1, 1))


def test_the_environment_names_versions_and_machine():
    assert {"python", "torch", "platform", "cpu", "threads"} <= environment().keys()


def test_the_environment_tells_no_path():
    assert "/home" not in str(environment())
