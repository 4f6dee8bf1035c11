"""The version, in its own module so that a release does not invalidate results."""

__version__ = "0.1.0"
