"""The house itself: public names, light import, version, files that fit any machine."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import penjing

ROOT = Path(__file__).resolve().parents[1]
PUBLIC = [name for name in getattr(penjing, "__all__", ["__version__"]) if name != "__version__"]
HEAVY = (
    "jinja2",
    "mlflow",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "plotly",
    "rich",
    "sklearn",
    "tensorboard",
    "torchmetrics",
    "transformers",
    "typer",
    "wandb",
)
MACHINE_PATH = re.compile(r"(?<![\w./<])/(?:work|tmp|root|home|opt)/\w")
TEXT = {".py", ".md", ".toml", ".yml", ".txt", ".sh", ".html", ".css", ".js", ".json", ""}
SCRIPTS = [
    ROOT / ".ci" / "run",
    *sorted(p for p in (ROOT / "scripts").iterdir() if p.is_file() and not p.suffix),
]


@pytest.mark.parametrize("name", PUBLIC)
def test_every_exported_name_exists(name: str) -> None:
    assert hasattr(penjing, name)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_exported_function_and_class_is_documented(name: str) -> None:
    exported = getattr(penjing, name)
    if callable(exported) or inspect.ismodule(exported):
        assert exported.__doc__


def test_exported_names_do_not_repeat() -> None:
    assert len(PUBLIC) == len(set(PUBLIC))


def test_importing_penjing_pulls_nothing_heavy_but_torch() -> None:
    code = (
        "import sys, torch; before = set(sys.modules); import penjing; "
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(HEAVY) & set(done.stdout.split())


def test_the_changelog_has_a_section_for_the_version() -> None:
    assert f"\n## [{penjing.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_the_package_says_that_it_is_typed() -> None:
    assert (Path(penjing.__file__).parent / "py.typed").is_file()


def test_no_file_names_a_path_of_one_machine() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {hit.group()}"
        for path in _texts()
        if (hit := MACHINE_PATH.search(path.read_text(encoding="utf-8")))
    ]
    assert found == []


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_every_script_is_executable(script: Path) -> None:
    assert os.access(script, os.X_OK)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_every_script_stops_at_the_first_error(script: Path) -> None:
    assert re.search(r"^set -eu", script.read_text(), re.MULTILINE)


def _texts() -> Iterator[Path]:
    """Text files of the project, without what is built or downloaded."""
    yield from (p for p in ROOT.iterdir() if p.is_file() and p.suffix in TEXT and p.name != ".git")
    for folder in (".ci", "bench", "docs", "examples", "scripts", "src", "tests"):
        files = (ROOT / folder).rglob("*")
        yield from (
            p for p in files if p.is_file() and p.suffix in TEXT and "__pycache__" not in p.parts
        )
