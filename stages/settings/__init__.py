"""The settings of a suite, a section a stage."""
