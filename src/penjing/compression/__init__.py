"""The main job: from budgets to candidates to a measured result."""

from penjing.compression.constraints import KNOWN
from penjing.compression.verb import Compressed, compress

__all__ = ["KNOWN", "Compressed", "compress"]
