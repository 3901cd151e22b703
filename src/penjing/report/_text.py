"""The report as a plain-text table."""

from __future__ import annotations

from penjing.report import _recovery as recovered
from penjing.report._budget import budgets
from penjing.report._comparison import Row, rows
from penjing.report.data import ReportData

KINDS = {
    "prune": "pruned",
    "sparsify": "sparsified",
    "quantize": "quantized",
    "prepare": "prepared for quantization-aware training",
    "finetune": "fine-tuned",
    "distill": "distilled",
    "train": "trained",
    "compress": "compressed",
    "measure": "measured",
    "groups": "what can be cut",
    "exits": "with early exits",
    "gates": "with gated blocks",
    "channels": "with gated channels",
    "slimmable": "with several widths",
    "tokens": "with fewer tokens",
}


def table(data: ReportData) -> str:
    """Headline figures before and after, then the budgets and the notes.

    Args:
        data: What to show.

    Returns:
        Lines of at most a few dozen characters, without a final line break.
    """
    lines = [f"{KINDS[data.kind]}: {_one_line(data.title)}", *_figures(rows(data)), *_proof(data)]
    lines += [_budget_line(b.name, b.limit, b.words, b.actual) for b in budgets(data)]
    lines += recovered.lines(data.recovery)
    lines += [f"note: {_one_line(note)}" for note in data.notes]
    return "\n".join(lines)


def _budget_line(name: str, limit: str, words: str, actual: str) -> str:
    return f"budget {name} <= {limit}: {words}" + (f" ({actual})" if actual else "")


def _figures(shown: list[Row]) -> list[str]:
    if not shown:
        return []
    cells = [("", "before", "after", "change")]
    cells += [
        (_one_line(row.label), row.before or "-", row.after or "-", row.words) for row in shown
    ]
    widths = [max(len(line[i]) for line in cells) for i in range(4)]
    lines = [
        f"{label:<{widths[0]}}  {before:>{widths[1]}}  {after:>{widths[2]}}  {words}".rstrip()
        for label, before, after, words in cells
    ]
    lines.insert(1, "-" * (sum(widths) + 6))
    return lines


def _proof(data: ReportData) -> list[str]:
    if data.proof is None:
        return []
    form = "the same class" if data.proof.form == "module" else "a graph module"
    moved = f"(masking moved it by {data.proof.moved:.1e})"
    return [f"equal to the masked original within {data.proof.error:.1e} {moved}; {form}"]


def _one_line(text: str) -> str:
    return " ".join(text.split())
