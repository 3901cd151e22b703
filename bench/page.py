"""What do the committed results say? Writes them into docs/benchmarks.md and docs/assets.

    python bench/page.py

Every table of the page stands between two marks and is made from bench/results/*.json alone.
"""

from __future__ import annotations

import re
from pathlib import Path

from penjing.files import write_text
from tables import PICTURES, TABLES
from tables.rows import rows

DOCS = Path(__file__).parents[1] / "docs"


def main() -> None:
    """Write the page, and the pictures that have results."""
    page = DOCS / "benchmarks.md"
    text = page.read_text()
    for name, make in TABLES.items():
        mark = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        content = make()
        text = mark.sub(lambda found, c=content: f"{found[1]}\n{c}\n\n{found[2]}", text)
    write_text(page, text)
    for name, (results, draw) in PICTURES.items():
        if rows(results):
            write_text(DOCS / "assets" / name, draw())


if __name__ == "__main__":
    main()
