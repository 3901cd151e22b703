"""The tables and pictures of docs/benchmarks.md, made from bench/results/*.json alone.

One file answers one question, or a family of them. A table is declared by its columns.
"""

from __future__ import annotations

from collections.abc import Callable

from tables.adaptive import adaptive_tables, exits_picture
from tables.analysis import coverage_table, growth_table, memory_table, random_networks_table
from tables.attention import attention_table
from tables.choices import composition_table, depth_table, joint_table, mixed_table, sparsity_table
from tables.compiling import compiling_tables
from tables.criteria import activations_table, cost_table, criteria_table
from tables.integer_patterns import integer_patterns_table
from tables.integers import (
    bits_picture,
    bits_table,
    host_table,
    observers_table,
    quantization_table,
    recurrent_table,
)
from tables.kernels import patterns_table, peak_table, zeros_picture, zeros_table
from tables.leaderboard import leaderboard_picture, leaderboard_tables
from tables.microcontrollers import (
    cycles_tables,
    float_boards_table,
    microcontrollers_table,
)
from tables.repair import repair_picture, repair_tables
from tables.speed import families_table, speed_table
from tables.training import (
    sparse_training_picture,
    sparse_training_table,
    training_picture,
    training_table,
)

# by the mark in the page between whose two halves they stand
TABLES: dict[str, Callable[[], str]] = {
    "activations": activations_table,
    "adaptive": adaptive_tables,
    "attention": attention_table,
    "bits": bits_table,
    "compiling": compiling_tables,
    "composition": composition_table,
    "coverage": coverage_table,
    "criteria": criteria_table,
    "criterion-cost": cost_table,
    "cycles": cycles_tables,
    "depth": depth_table,
    "families": families_table,
    "float-boards": float_boards_table,
    "growth": growth_table,
    "integer-patterns": integer_patterns_table,
    "integers": host_table,
    "joint": joint_table,
    "leaderboard": leaderboard_tables,
    "memory": memory_table,
    "microcontrollers": microcontrollers_table,
    "mixed": mixed_table,
    "patterns": patterns_table,
    "peak": peak_table,
    "quantization": quantization_table,
    "observers": observers_table,
    "random_networks": random_networks_table,
    "recurrent": recurrent_table,
    "repair": repair_tables,
    "sparsity": sparsity_table,
    "sparse-training": sparse_training_table,
    "speed": speed_table,
    "training": training_table,
    "zeros": zeros_table,
}

# by the results that they draw
PICTURES: dict[str, tuple[str, Callable[[], str]]] = {
    "repair.svg": ("repair-resnet56", repair_picture),
    "zeros.svg": ("zeros", zeros_picture),
    "bits.svg": ("bits", bits_picture),
    "leaderboard.svg": ("leaderboard", leaderboard_picture),
    "training.svg": ("training-resnet56", training_picture),
    "sparse-training.svg": ("sparse_training", sparse_training_picture),
    "exits.svg": ("exits", exits_picture),
}
