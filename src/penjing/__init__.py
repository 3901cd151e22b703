"""Take a trained network, some data and a budget; give back the network that fits, proved."""

from penjing.checkpoint import load, save
from penjing.codegen.preprocessing import Normalize
from penjing.compression import Compressed, compress
from penjing.errors import PenjingError
from penjing.figures import Figures
from penjing.plan import Group, Groups, Plan
from penjing.report import Report
from penjing.task import Calibration, Task
from penjing.verbs.calibrate_exits import CalibratedExits, calibrate_exits
from penjing.verbs.compile import compile
from penjing.verbs.convert import convert
from penjing.verbs.distill import Distilled, distill
from penjing.verbs.early_exits import EarlyExits, early_exits
from penjing.verbs.export import export
from penjing.verbs.find_groups import find_groups
from penjing.verbs.finetune import Tuned, finetune
from penjing.verbs.gate_blocks import GatedBlocks, gate_blocks
from penjing.verbs.gate_channels import GatedChannels, gate_channels
from penjing.verbs.later import Later
from penjing.verbs.measure import measure
from penjing.verbs.measure_gates import MeasuredGates, measure_gates
from penjing.verbs.prepare import Prepared, prepare
from penjing.verbs.prune import Pruned, prune
from penjing.verbs.quantize import Quantized, quantize
from penjing.verbs.reduce_tokens import FewerTokens, reduce_tokens
from penjing.verbs.shrink_like import shrink_like
from penjing.verbs.slimmable import Slimmable, slimmable
from penjing.verbs.sparsify import Sparsified, sparsify
from penjing.verbs.train import train

__version__ = "0.1.0"

__all__ = [
    "CalibratedExits",
    "Calibration",
    "Compressed",
    "Distilled",
    "EarlyExits",
    "FewerTokens",
    "Figures",
    "GatedBlocks",
    "GatedChannels",
    "Group",
    "Groups",
    "MeasuredGates",
    "Normalize",
    "PenjingError",
    "Plan",
    "Prepared",
    "Pruned",
    "Quantized",
    "Report",
    "Slimmable",
    "Sparsified",
    "Task",
    "Tuned",
    "calibrate_exits",
    "compile",
    "compress",
    "convert",
    "distill",
    "early_exits",
    "export",
    "find_groups",
    "finetune",
    "gate_blocks",
    "gate_channels",
    "load",
    "measure",
    "measure_gates",
    "prepare",
    "prune",
    "quantize",
    "reduce_tokens",
    "save",
    "search",
    "shrink_like",
    "slimmable",
    "sparsify",
    "train",
]

search = Later("search")
