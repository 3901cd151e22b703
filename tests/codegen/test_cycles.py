"""Cycles estimated from instructions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from penjing.cli.app import app
from penjing.codegen.cycles import FACTORS, estimate_cycles
from penjing.codegen.int8 import compile_integers
from penjing.codegen.log import Log

from .integer_nets import Builder, random_convolutions

RESULTS = Path(__file__).parents[2] / "bench" / "results" / "cycles.json"


@pytest.mark.parametrize("core", FACTORS)
def test_factors_are_those_of_the_fit(core):
    rows = json.loads(RESULTS.read_text())["rows"]
    fit = next(r for r in rows if r["core"] == core and r["kind"] == "fit")
    found = FACTORS[core]
    wanted = [round(fit[key], 2) for key in ("factor", "low", "high")]
    assert [found.typical, found.low, found.high] == wanted


def test_a_core_without_published_times_has_no_estimate():
    assert estimate_cycles("cortex-m55", 1000) is None


def counted(core, unit="instructions"):
    program = compile_integers(random_convolutions(0), core)
    return program.counted(Log(unit, 1000, {}, program.arena_bytes, True, 0.0, f"int8 {core}"))


def test_the_description_has_the_estimate_and_its_interval():
    described = json.loads(counted("cortex-m4").files["net.json"])
    assert described["estimated_cycles"].items() >= {"low": 1140, "cycles": 1540}.items()


def test_an_estimate_says_that_the_program_leaves_out_zeros():
    b = Builder(0, (4, 4, 8))
    b.conv(4, (3, 3), (1, 1), ((1, 1), (1, 1)), zeros=0.95)
    program = replace(compile_integers(b.net(), "cortex-m4"), instructions=1000)
    assert "leaves out zeros" in program.cycles.source


def test_cycles_of_a_board_are_not_estimated_again():
    assert counted("cortex-m4", "cycles").cycles is None


def test_a_log_of_an_emulator_gets_an_estimate(tmp_path):
    log = tmp_path / "emulator.log"
    log.write_text(
        "penjing: network int8 cortex-m4\npenjing: instructions 1000\npenjing: arena 64\n"
        "penjing: equal yes, largest difference 0\n"
    )
    said = CliRunner().invoke(app, ["measure", "--from-log", str(log)]).output
    assert "estimated_cycles: about 1,540, between 1,140 and 1,950" in " ".join(said.split())
