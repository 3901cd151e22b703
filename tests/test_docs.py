"""The README and the documentation keep to what exists: code parses, names and links resolve."""

from __future__ import annotations

import ast
import re
import textwrap
from pathlib import Path

import pytest

import penjing

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")


def each(pages: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("page", pages, ids=lambda page: str(page.relative_to(ROOT)))


def examples(page: Path) -> list[str]:
    return [textwrap.dedent(code) for code in PYTHON.findall(page.read_text())]


with_python = each([page for page in PAGES if examples(page)])


@with_python
def test_the_python_on_a_page_parses(page: Path) -> None:
    assert all(ast.parse(code) for code in examples(page))


@with_python
def test_the_python_on_a_page_uses_public_names_only(page: Path) -> None:
    used = {name for code in examples(page) for name in re.findall(r"\bpj\.(\w+)", code)}
    assert used <= set(penjing.__all__)


@each(PAGES)
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    links = LINK.findall(CODE.sub("", page.read_text()))
    broken = [link for link in links if not (page.parent / link).exists()]
    assert broken == []
