"""The demo's data and network; the whole demo with its training left out."""

import json

import pytest
import torch
from tests.compression.toys import FakeWatch
from typer.testing import CliRunner

from penjing.cli import app
from penjing.cli.digits import SPLIT, DigitNet, Digits

pytest.importorskip("sklearn", reason="scikit-learn comes with penjing[demo]")


@pytest.fixture(scope="module")
def digits():
    return Digits.read()


def test_the_split_is_the_stated_one(digits):
    assert tuple(len(labels) for _, labels in digits.splits) == SPLIT


def test_the_split_is_the_same_every_time(digits):
    assert torch.equal(Digits.read().splits[2][1], digits.splits[2][1])


def test_no_scan_is_in_two_parts(digits):
    scans = torch.cat([images.flatten(1) for images, _ in digits.splits])
    assert len(scans) == sum(SPLIT) == len(scans.unique(dim=0))


def test_the_network_scores_ten_digits():
    assert DigitNet().eval()(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_the_demo_ends_with_a_report(tmp_path, monkeypatch):
    FakeWatch().install(monkeypatch)
    monkeypatch.setattr("penjing.cli.digits.EPOCHS", 1)
    words = ["demo", "--macs", "80%", "--max-drop", "15%", "--out", str(tmp_path), "--json"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["report"]["per_class"]
