"""Every way from a pre-trained network to a small file: ECQ's family, and what a user would pick instead.

docs/comparison.md says where each method comes from.
"""
