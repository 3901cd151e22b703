"""int8 programs: one arena, one set of small kernels, the same bits on every target."""

from penjing.codegen.int8.image import with_bytes
from penjing.codegen.int8.program import IntegerProgram, compile_integers

__all__ = ["IntegerProgram", "compile_integers", "with_bytes"]
