"""Logs of boards and emulators, read back."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from penjing.cli.app import app
from penjing.codegen.log import read_log
from penjing.errors import InputError

BOARD = """boot 1.2
penjing: network int8 cortex-m4
penjing: layer conv1 cycles 900
penjing: layer fc cycles 100
penjing: cycles 1000
penjing: arena 4096
penjing: equal yes, largest difference 0
"""


def run(tmp_path, text, *options):
    (tmp_path / "board.log").write_text(text)
    found = CliRunner().invoke(
        app, ["measure", "--from-log", str(tmp_path / "board.log"), *options]
    )
    return found.exit_code, found.output


def test_a_log_is_read_with_its_layers():
    log = read_log(BOARD)
    assert (log.unit, log.count, log.layers) == ("cycles", 1000, {"conv1": 900, "fc": 100})


def test_a_log_that_breaks_off_is_refused():
    with pytest.raises(InputError, match="arena"):
        read_log(BOARD[:90])


def test_cycles_and_a_clock_make_milliseconds(tmp_path):
    assert "latency_ms: 0.01" in run(tmp_path, BOARD, "--clock-mhz", "100")[1]


def test_instructions_make_no_milliseconds(tmp_path):
    code, said = run(tmp_path, BOARD.replace("cycles", "instructions"), "--clock-mhz", "100")
    assert (code, "only cycles" in " ".join(said.split())) == (2, True)


TICKS = """penjing: ticks 5000
penjing: ticks_per_second 1000000
penjing: arena 64
penjing: equal yes, largest difference 0
"""


def test_ticks_of_a_timer_are_not_taken_for_cycles():
    assert (read_log(TICKS).unit, read_log(TICKS).count) == ("ticks", 5000)


def test_a_timer_counts_layers_too():
    log = read_log(BOARD.replace("cycles", "ticks"))
    assert (log.unit, log.layers) == ("ticks", {"conv1": 900, "fc": 100})


def test_ticks_make_milliseconds_by_the_timer_that_the_log_names(tmp_path):
    assert "latency_ms: 5.0" in run(tmp_path, TICKS)[1]


def test_a_clock_of_the_core_says_nothing_of_ticks(tmp_path):
    code, said = run(tmp_path, TICKS, "--clock-mhz", "100")
    assert (code, "only cycles" in " ".join(said.split())) == (2, True)


def test_measuring_nothing_is_refused():
    assert CliRunner().invoke(app, ["measure"]).exit_code == 2
