"""Quantizers that are attached to a torch model and work in any training loop."""
