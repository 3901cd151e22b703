"""The command line: one file per command, each a thin cover over a verb."""

from penjing.cli.app import app, main

__all__ = ["app", "main"]
