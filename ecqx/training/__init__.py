"""Loops that fit and evaluate a network, its objective, and training on several processes."""
