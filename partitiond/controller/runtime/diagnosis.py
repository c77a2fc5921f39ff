"""Shortens an error that quotes an engine's log. Pure."""


def first_line(text: str) -> str:
    """Return the text without the log lines, for places that show one sentence."""
    return text.partition("\n")[0]
