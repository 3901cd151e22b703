"""Checks that penjing's own strategies pass, shipped for authors of others, and tiny networks."""

from penjing.testing._allocation import check_allocation
from penjing.testing._importance import check_importance
from penjing.testing._weights import check_sparsity_allocation, check_weight_importance

__all__ = [
    "check_allocation",
    "check_importance",
    "check_sparsity_allocation",
    "check_weight_importance",
]
