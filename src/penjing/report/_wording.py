"""Numbers as a person reads them, and what changed in words that do not flatter."""

from __future__ import annotations

import math

# Shares of samples, shown in percent; any other metric is shown as the number it is.
SHARES = (
    "accuracy", "acc", "top1", "top5", "agreement", "precision", "recall", "specificity", "f1",
    "auc", "auroc", "iou", "dice", "map", "exact_match",
)  # fmt: skip

SAME = 0.005  # relative change below which a ratio of two decimals shows nothing
NOISE = 0.02  # the same for latencies, which scatter
KIB = 1024


def count(value: float) -> str:
    """A count in three digits.

    Example:
        >>> count(853_018), count(9_408), count(125_485_696)
        ('853 k', '9,408', '125 M')
    """
    if abs(value) < 10_000:
        return f"{value:,.0f}"
    return _scaled(value, 1000, ("", "k", "M", "G", "T"))


def size(value: float) -> str:
    """Bytes; a kB is 1024 of them, as in data sheets.

    Example:
        >>> size(512), size(3_437_120)
        ('512 B', '3.28 MB')
    """
    return _scaled(value, KIB, ("B", "kB", "MB", "GB", "TB"))


def _scaled(value: float, step: int, units: tuple[str, ...]) -> str:
    place = 0
    while abs(value) >= step * 0.9995 and place < len(units) - 1:
        value /= step
        place += 1
    text = f"{value:.0f}" if place == 0 else digits(value)
    return f"{text} {units[place]}".strip()


def digits(value: float, n: int = 3) -> str:
    """A number in `n` significant digits, without an exponent where it stays short.

    Example:
        >>> digits(12.3456), digits(0.00012345), digits(1e-17), digits(float("nan"))
        ('12.3', '0.000123', '1.0e-17', 'not a number')
    """
    if math.isnan(value):
        return "not a number"
    if value == 0 or math.isinf(value):
        return f"{value:.0f}".replace("inf", "infinite")
    magnitude = math.floor(math.log10(abs(value)))
    if not -5 <= magnitude < 6:
        return f"{value:.1e}"
    return f"{value:.{max(0, n - 1 - magnitude)}f}"


def trimmed(text: str) -> str:
    """A formatted number without zeros that say nothing.

    Example:
        >>> trimmed("40.0 M"), trimmed("3.50 ms"), trimmed("100 M")
        ('40 M', '3.5 ms', '100 M')
    """
    digits_, _, unit = text.partition(" ")
    if "." in digits_:
        digits_ = digits_.rstrip("0").rstrip(".")
    return f"{digits_} {unit}".strip()


def percent(share: float) -> str:
    """A share in percent.

    Example:
        >>> percent(0.9339)
        '93.39 %'
    """
    return f"{100 * share:.2f} %" if math.isfinite(share) else digits(share)


def duration(seconds: float) -> str:
    """A time a person would say.

    Example:
        >>> duration(0.25), duration(75), duration(7322)
        ('0.25 s', '1 min 15 s', '2 h 2 min')
    """
    if seconds < 10:
        return f"{seconds:.2g} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def is_share(name: str, *values: float | None) -> bool:
    """Whether a metric is a share of samples, by its name and its values."""
    words = name.lower().replace("-", "_").replace(" ", "_").split("_")
    known = name.lower() in SHARES or any(word in SHARES for word in words)
    return known and all(value is None or 0 <= value <= 1 or math.isnan(value) for value in values)


def metric(name: str, value: float) -> str:
    """A metric in the form its name asks for.

    Example:
        >>> metric("accuracy", 0.913), metric("mse", 0.913)
        ('91.30 %', '0.9130')
    """
    return percent(value) if is_share(name, value) else digits(value, 4)


def factor(ratio: float) -> str:
    """A ratio with its cross.

    Example:
        >>> factor(2.108), factor(14.2), factor(250.4)
        ('2.11×', '14.2×', '250×')
    """
    return f"{ratio:.{2 if ratio < 9.995 else 1 if ratio < 99.95 else 0}f}×"


def ratio_words(ratio: float, less: str, more: str, *, tolerance: float = SAME) -> str:
    """What a ratio before / after of something that costs means.

    Args:
        ratio: Before divided by after, above zero; more than 1 is a saving.
        less: Word for a saving, such as "smaller".
        more: Word for the opposite.
        tolerance: Relative change below which neither is claimed.

    Returns:
        Words such as "2.11× smaller".

    Example:
        >>> ratio_words(1.47, "faster", "slower"), ratio_words(0.8, "faster", "slower")
        ('1.47× faster', '1.25× slower')
        >>> ratio_words(1.0, "faster", "slower"), ratio_words(1.001, "faster", "slower")
        ('unchanged', 'about the same')
    """
    if ratio == 1:
        return "unchanged"
    if abs(ratio - 1) < tolerance:
        return "about the same"
    return f"{factor(ratio)} {less}" if ratio > 1 else f"{factor(1 / ratio)} {more}"


def points_words(name: str, before: float, after: float) -> str:
    """How far a metric moved.

    Example:
        >>> points_words("accuracy", 0.9339, 0.913), points_words("mse", 0.5, 0.75)
        ('2.09 points lower', '0.250 higher')
    """
    moved = after - before
    if math.isnan(moved):
        return "not comparable"
    if is_share(name, before, after):
        amount, unit = f"{100 * abs(moved):.2f}", " points"
        same = amount == "0.00"
    else:
        amount, unit = digits(abs(moved)), ""
        same = moved == 0
    return "unchanged" if same else f"{amount}{unit} {'higher' if moved > 0 else 'lower'}"
