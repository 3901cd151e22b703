"""Latency on the runtimes that networks are shipped with."""
