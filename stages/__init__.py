"""The commands of the pipeline: its stages, and what the Makefile calls."""
