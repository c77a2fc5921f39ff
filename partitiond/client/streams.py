"""Parses server-sent events."""

from collections.abc import Iterator


def events(lines: Iterator[str]) -> Iterator[tuple[str, bytes]]:
    """Yield name and data of each server-sent event in a stream of lines; skip comments."""
    name, data = "", []
    for line in lines:
        field, _, value = line.partition(":")
        if field == "event":
            name = value.strip()
        elif field == "data":
            data.append(value.removeprefix(" "))
        elif not line and data:
            yield name, "\n".join(data).encode()
            name, data = "", []
