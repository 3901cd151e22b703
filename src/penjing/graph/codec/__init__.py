"""The graph form as JSON, and back: our own format over a list of allowed ops.

Nothing in such a file is code. Names are checked before a line is generated from them, ops are
looked up among the functional ops of `torch.ops.aten` and a few sums of sizes, and reading a file
runs none of them. Tensors travel apart, by qualified name.
"""

from penjing.graph.codec.ops import aten_op
from penjing.graph.codec.reader import from_json
from penjing.graph.codec.writer import tensors_of, to_json

__all__ = ["aten_op", "from_json", "tensors_of", "to_json"]
