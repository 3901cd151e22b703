"""Distillation losses, one per file."""

from penjing.distillation.logits import Logits

__all__ = ["Logits"]
