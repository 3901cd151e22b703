"""Recovery: what is done for a cut network without training it."""
