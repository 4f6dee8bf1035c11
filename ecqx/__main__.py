"""``python -m ecqx``: the command ``ecqx`` if the program is not on the path."""

from ecqx.cli.main import main

if __name__ == "__main__":
    main()
