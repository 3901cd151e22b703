"""`python -m penjing`: the command line."""

from __future__ import annotations

from penjing.cli import main

if __name__ == "__main__":
    main()
