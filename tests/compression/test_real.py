"""Once with the real runtime: exported, timed, saved, loaded."""

import pytest
from tests.compression.toys import EXAMPLE, Net, equal, scans

from penjing import checkpoint
from penjing.compression import compress


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    result = compress(
        Net(), EXAMPLE, constraints={"macs": "50%"}, calibration=[scans()], workdir=folder
    )
    return result, folder


def test_latency_is_timed_in_turn_with_the_original(run):
    assert run[0].report.after.latency.ratio > 0


def test_the_exported_file_is_in_the_folder(run):
    result, folder = run
    assert (folder / "model.onnx").stat().st_size == result.report.after.size_bytes


def test_the_saved_network_is_the_result(run):
    result, folder = run
    assert equal(checkpoint.load(folder / "model", Net()), result.model)


def test_the_result_can_be_exported(run, tmp_path):
    assert run[0].export(tmp_path / "net.onnx").is_file()
