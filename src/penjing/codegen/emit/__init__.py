"""The files of a program: C, header, build files, example, test vector and description."""

from penjing.codegen.emit.files import Files, write_files
from penjing.codegen.emit.source import Step, Text, write_text

__all__ = ["Files", "Step", "Text", "write_files", "write_text"]
