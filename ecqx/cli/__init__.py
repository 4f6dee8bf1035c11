"""The command `ecqx`."""
