"""The long checks, in parts that can be run alone: ``python -m stages.verify [SUITE] [PART…]``."""
