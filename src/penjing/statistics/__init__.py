"""Statistics of a network's inner values, had by streaming samples through its graph."""
