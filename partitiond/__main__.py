"""Runs the command line: `python -m partitiond`, and the installed command."""


def main() -> None:
    """Run it. Imported here, because each planner process imports the installed command anew."""
    from partitiond.cli.main import main as command_line

    command_line()


if __name__ == "__main__":
    main()
