"""Counts that are had from the graph alone: parameters, multiply-accumulates, peak memory."""
