"""What an exporter returns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Exported:
    """A file that was written, loaded again and compared.

    Args:
        path: The file.
        size_bytes: Its bytes on disk.
        difference: Largest difference of any output from the network's own, relative to the
            largest magnitude of that output, over all batch sizes that were tried.
        tolerance: The difference that would have been refused.
        batches: Batch sizes that were compared.
        runtime: What ran the file, name and version.
        inputs: Names of the inputs in the file.
        outputs: Names of the outputs in the file.
    """

    path: Path
    size_bytes: int
    difference: float
    tolerance: float
    batches: tuple[int, ...]
    runtime: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def __str__(self) -> str:
        batches = " and ".join(map(str, self.batches))
        return (
            f"{self.path.name}: {self.size_bytes:,} bytes; {self.runtime} differs by "
            f"{self.difference:.1e} at most (allowed {self.tolerance:.0e}, batch {batches})"
        )
