"""Every way from a pre-trained network to a small file, behind one interface.

docs/comparison.md says where each method comes from.
"""
