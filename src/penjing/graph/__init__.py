"""From a network to its coupled groups: capture, the algebra of axes, one rule per compute op."""
