"""What a reader calls the networks of the results."""

from __future__ import annotations

from tables.rows import Row

NAMES = {
    "resnet20": "ResNet-20, CIFAR-10",
    "resnet56": "ResNet-56, CIFAR-10",
    "ic": "MLPerf Tiny ResNet-8, CIFAR-10",
    "vww": "MLPerf Tiny MobileNetV1-0.25, visual wake words",
    "kws": "MLPerf Tiny DS-CNN, keywords",
    "ad": "MLPerf Tiny autoencoder, machine sounds (AUC)",
}
SCHOOLED = {"digits": "GRU, spoken digits, speakers held out", "text": "text encoder, SST-2"}
TRANSFORMERS = {"vit": "vision transformer, CIFAR-10", "text": "text encoder, SST-2"}


def named(row: Row) -> str:
    """The network of a row and its task; its own name where it has no other."""
    return NAMES.get(row["network"], str(row["network"]))


def short(row: Row) -> str:
    """The network of a row without its task."""
    return NAMES[row["network"]].partition(",")[0]


def without_metric(row: Row) -> str:
    """The network of a row and its task, where the metric stands elsewhere."""
    return NAMES[row["network"]].removesuffix(" (AUC)")
