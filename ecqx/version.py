"""The version, by itself: a release is no change of what is computed."""

__version__ = "0.1.0"
