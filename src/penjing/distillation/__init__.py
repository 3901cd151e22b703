"""Distillation losses, one per file."""

from penjing.distillation.attention import AttentionTransfer
from penjing.distillation.contrastive import Contrastive
from penjing.distillation.decoupled import Decoupled
from penjing.distillation.logits import Logits
from penjing.distillation.protocol import Distillation
from penjing.distillation.regression import Regression
from penjing.distillation.relational import Relational

__all__ = [
    "AttentionTransfer",
    "Contrastive",
    "Decoupled",
    "Distillation",
    "Logits",
    "Regression",
    "Relational",
]
