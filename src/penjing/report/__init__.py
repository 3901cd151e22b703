"""Reports: what was measured, as data, as a table and as one self-contained page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from penjing.errors import CheckpointError, InputError
from penjing.figures import Figures
from penjing.files import write_text
from penjing.report._comparison import rows
from penjing.report._environment import environment
from penjing.report._text import table
from penjing.report.data import CandidateFigures, ClassFigures, Coupling, Histogram, ReportData

__all__ = [
    "CandidateFigures",
    "ClassFigures",
    "Coupling",
    "Histogram",
    "Report",
    "ReportData",
    "environment",
]


@dataclass(frozen=True, slots=True, repr=False)
class Report:
    """What a verb measured. `str()` is a table; `.save("report.html")` a page to show around.

    Args:
        data: All of it; everything below is drawn from there.

    Example:
        >>> before, after = Figures(100, 100, 5000), Figures(40, 40, 2000)
        >>> report = Report(ReportData("prune", "net", before, after))
        >>> report.ratios["macs"]
        2.5
        >>> print(report)
        pruned: net
                              before  after  change
        ------------------------------------------------
        multiply-accumulates   5,000  2,000  2.50× fewer
        parameters               100     40  2.50× fewer
        nonzero parameters       100     40  2.50× fewer
    """

    data: ReportData

    @property
    def title(self) -> str:
        """One line that names the network and the task."""
        return self.data.title

    @property
    def before(self) -> Figures | None:
        """Figures of the original network."""
        return self.data.before

    @property
    def after(self) -> Figures | None:
        """Figures of the result."""
        return self.data.after

    @property
    def metrics(self) -> Mapping[str, float]:
        """Metric name -> value of the result on the held-out data."""
        return self.data.metrics_after

    @property
    def agreement(self) -> float | None:
        """Share of held-out samples on which result and original answer alike, in [0, 1]."""
        return self.data.agreement

    @property
    def ratios(self) -> dict[str, float]:
        """Figure name -> before / after, where both sides were had; above 1 is a saving."""
        return {row.name: row.ratio for row in rows(self.data) if row.ratio is not None}

    def to_json(self) -> str:
        """The data as versioned JSON text."""
        return self.data.to_json()

    def to_html(self) -> str:
        """The report as one page that needs nothing but itself."""
        from penjing.report.html import page  # jinja2 is imported only when a page is made

        return page(self.data)

    def save(self, path: str | Path) -> Path:
        """Write the report, whole or not at all.

        Args:
            path: Ends in .html for the page or .json for the data; its folder is made when missing.

        Returns:
            The path written.

        Raises:
            InputError: Another suffix.
            OSError: The disk is full or the folder cannot be written; an old file stays as it was.
        """
        path = Path(path)
        suffix = path.suffix.lower()
        if suffix not in {".html", ".json"}:
            raise InputError(f"a report is saved as .html or .json, got {path.name!r}; rename it")
        return write_text(path, self.to_json() if suffix == ".json" else self.to_html())

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read a saved report.json.

        Args:
            path: The file.

        Returns:
            A report equal to the one that was saved.

        Raises:
            CheckpointError: No such file, or it is damaged, no report, or of a newer version.
        """
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{path} cannot be read as a report: {error}") from error
        try:
            return cls(ReportData.from_json(text))
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from error

    def __str__(self) -> str:
        return table(self.data)

    def __repr__(self) -> str:
        return f"Report(kind={self.data.kind!r}, title={self.data.title!r})"
