"""A real browser opens the page, runs its script and has nothing to complain about."""

import os
import shutil
import subprocess

import pytest

from penjing.report import Report

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
)
SECONDS = 120  # a cold start on a busy machine


@pytest.fixture
def chromium():
    binary = shutil.which("chromium") or shutil.which("chromium-browser")
    if binary is None and os.environ.get("CI"):
        pytest.fail("chromium is not installed; `scripts/install --system` brings it")
    if binary is None:
        pytest.skip("needs the system package chromium")
    return binary


def opened(chromium, path, folder, *flags):
    profile = f"--user-data-dir={folder / 'profile'}"
    command = [chromium, *FLAGS, profile, *flags, path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True)
    said = [text for text in done.stderr.splitlines() if "CONSOLE" in text]
    return done.stdout, said


def test_the_page_opens_without_a_console_message(chromium, full, tmp_path):
    path = Report(full).save(tmp_path / "report.html")
    assert opened(chromium, path, tmp_path, "--dump-dom")[1] == []


def test_the_script_of_the_page_is_allowed_to_run(chromium, full, tmp_path):
    path = Report(full).save(tmp_path / "report.html")
    assert '<button type="button">' in opened(chromium, path, tmp_path, "--dump-dom")[0]


def test_a_page_that_complains_is_noticed(chromium, full, tmp_path):
    path = tmp_path / "report.html"
    text = Report(full).to_html().replace('"use strict";', '"use strict"; broken();')
    path.write_text(text)  # its own policy refuses the changed script
    assert opened(chromium, path, tmp_path, "--dump-dom")[1]


def test_the_page_prints(chromium, full, tmp_path):
    path, out = Report(full).save(tmp_path / "report.html"), tmp_path / "report.pdf"
    opened(chromium, path, tmp_path, f"--print-to-pdf={out}")
    assert out.read_bytes().startswith(b"%PDF")
