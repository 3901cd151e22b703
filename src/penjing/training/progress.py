"""A progress bar for people who watch: on a terminal, and only when it takes a while."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from penjing.training.run import Run

PATIENCE_SECONDS = 2.0


@contextmanager
def progress_bar(shown: bool) -> Iterator[Callable[[Run], None]]:
    """A function to call after every step; nothing appears in the first two seconds.

    Args:
        shown: False never shows anything.

    Yields:
        Takes the run and draws where it is.
    """
    if not (shown and sys.stderr.isatty()):
        yield lambda _run: None
        return
    start = time.monotonic()
    with ExitStack() as stack:
        draw: Callable[[Run], None] | None = None

        def tick(run: Run) -> None:
            nonlocal draw
            if draw is None and time.monotonic() - start > PATIENCE_SECONDS:
                draw = stack.enter_context(_bar())
            if draw is not None:
                draw(run)

        yield tick


@contextmanager
def _bar() -> Iterator[Callable[[Run], None]]:
    from rich.console import Console  # only when something is drawn
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("training", total=1.0)

        def draw(run: Run) -> None:
            loss = f"loss {run.loss_sum / run.samples:.4g}" if run.samples else ""
            epoch = min(run.epoch + 1, run.settings.epochs)
            text = f"epoch {epoch}/{run.settings.epochs} {loss}"
            bar.update(task, completed=run.progress, description=text)

        yield draw
