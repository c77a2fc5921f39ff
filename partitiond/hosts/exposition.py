"""Puts the Prometheus texts of several hosts' proxies together, each sample with its host."""

from collections.abc import Mapping


def together(texts: Mapping[str, str]) -> str:
    """Return one text in which each sample has the label `host`.

    All samples of a metric stand together, as the format asks; help and type are those of the first
    host that has the metric.

    Args:
        texts: by host.
    """
    heads: dict[str, dict[str, str]] = {}
    samples: dict[str, list[str]] = {}
    for host, text in texts.items():
        label = f'host="{_escaped(host)}"'
        metric = ""
        for line in filter(None, text.splitlines()):
            if line.startswith("#"):
                _, what, name, *_ = (*line.split(" ", 3), "", "")
                metric = name
                heads.setdefault(metric, {}).setdefault(what, line)
            else:
                samples.setdefault(metric, []).append(_labelled(line, label))
    found: list[str] = []
    for metric in dict.fromkeys((*heads, *samples)):
        found += (*heads.get(metric, {}).values(), *samples.get(metric, ()))
    return "".join(f"{line}\n" for line in found)


def _labelled(line: str, label: str) -> str:
    name, brace, rest = line.partition("{")
    if brace:
        return f"{name}{{{label}{'' if rest.startswith('}') else ','}{rest}"
    name, _, value = line.partition(" ")
    return f"{name}{{{label}}} {value}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
