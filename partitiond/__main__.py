"""Runs the command line for `python -m partitiond`."""

from partitiond.cli.main import main

if __name__ == "__main__":
    main()
