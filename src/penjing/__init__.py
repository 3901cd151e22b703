"""Take a trained network, some data and a budget; give back the network that fits, proved."""

__version__ = "0.1.0"
