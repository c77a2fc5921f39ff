"""Runs the command line: `python -m partitiond`, and the installed command."""

import gc


def main() -> None:
    """Run it. Imported here, because each planner process imports the installed command anew."""
    gc.set_threshold(50_000, 20, 100)  # imports leave no garbage: looking took a tenth of a start
    from partitiond.cli.main import main as command_line

    command_line()


if __name__ == "__main__":
    main()
