import sys

from tests.training.toys import Net, task

from penjing.training import Fit, fit, progress


def run(**settings):
    fit(Net(), task(), Fit(epochs=2, **settings))


def test_nothing_is_drawn_where_no_terminal_is(capfd):
    run()
    assert capfd.readouterr() == ("", "")


def test_nothing_is_drawn_in_the_first_seconds(capfd, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    run()
    assert capfd.readouterr() == ("", "")


def test_a_bar_with_epoch_and_loss_is_drawn_on_a_terminal_after_a_while(capsys, monkeypatch):
    monkeypatch.setattr(progress, "PATIENCE_SECONDS", -1.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    run()
    shown = capsys.readouterr()
    assert "epoch 2/2" in shown.err
    assert "loss" in shown.err
    assert shown.out == ""


def test_the_bar_can_be_switched_off(capsys, monkeypatch):
    monkeypatch.setattr(progress, "PATIENCE_SECONDS", -1.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    run(progress=False)
    assert capsys.readouterr().err == ""
