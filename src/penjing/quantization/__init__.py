"""Integers instead of floats: formats, ranges, rounding, and networks that run on them."""
