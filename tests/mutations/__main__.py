"""Makes wrong versions of lines of the product and runs the tests that should refuse them.

    python -m tests.mutations partitiond/core/keys/tokens_charged.py  all of a file, or of a folder
    python -m tests.mutations partitiond/core/keys/tokens_charged.py:30-44   of some lines
    python -m tests.mutations partitiond/core/keys/tokens_charged.py:charge  of one function
    python -m tests.mutations --changed main     of the lines that are not as on main
    python -m tests.mutations --rooms            of all rooms that decide
    python -m tests.mutations --rules            of the functions that rules.txt names

    --sample 50 --seed 1      so many of each of the places, by lot, in mixed order
    --tests tests/core/keys   ask these tests, and no others
    --list FILE               write their ids, and run nothing; --from FILE takes them from there
    --out FILE                add a line of JSON for each, and leave out those that it has
    --compare OLD NEW         what was refused in OLD and is not in NEW
    --seconds 3600            begin none after that
    --budget 90               CPU seconds of tests asked for each
    --copy                    for tests that start processes of the product

Ends with 1 when a wrong version survived.
"""

import argparse
import json
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from tests.mutations.operators import Mutation, found_again, mutations, spans
from tests.mutations.refusal import BUDGET_SECONDS, ROOT, Refusal

ROOMS: Final = ("core", "planner", "controller", "proxy", "fleet", "profiler", "advise", "cluster")
RULES: Final = Path(__file__).with_name("rules.txt")


def main(arguments: Sequence[str]) -> int:
    """Do what is asked; the exit status."""
    options = _options(arguments)
    if options.compare:
        return _compare(*options.compare)
    chosen = _chosen(options)
    if options.list:
        options.list.write_text(json.dumps([*chosen], indent=0) + "\n")
        return 0
    done = {line["id"] for line in _lines(options.out)} if options.out else set()
    files = list(_test_files(options.tests))
    refusal = Refusal(files, copied=options.copy, budget=options.budget)
    began = time.monotonic()
    counts = {"refused": 0, "survived": 0, "unasked": 0}
    for name, one in chosen.items():
        if name in done:
            continue
        if time.monotonic() - began > options.seconds:
            print("out of time")
            break
        answer = refusal.of(one)
        counts[answer["result"]] += 1
        told = one.told((ROOT / one.file).read_bytes())
        print(f"{answer['result']:8}  {one.id}  {answer.get('by', '')}\n    {told}", flush=True)
        if options.out:
            with options.out.open("a") as out:
                out.write(json.dumps(answer | {"id": name, "told": told}) + "\n")
    print(", ".join(f"{number} {result}" for result, number in counts.items()))
    return 1 if counts["survived"] else 0


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutations",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("places", nargs="*")
    parser.add_argument("--changed", metavar="REV")
    parser.add_argument("--rooms", action="store_true")
    parser.add_argument("--rules", action="store_true")
    parser.add_argument("--sample", type=int)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tests", nargs="+", default=[])
    parser.add_argument("--list", type=Path)
    parser.add_argument("--from", type=Path, dest="ids")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--compare", type=Path, nargs=2)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--budget", type=float, default=BUDGET_SECONDS)
    parser.add_argument("--copy", action="store_true")
    return parser.parse_args(arguments)


def _chosen(options: argparse.Namespace) -> dict[str, Mutation]:
    """The wrong versions by the ids that they were asked for with, which may tell an old line."""
    places = [*options.places]
    if options.changed:
        places += changed_places(options.changed)
    if options.rooms:
        places += [f"partitiond/{room}" for room in ROOMS]
    if options.rules:
        places += dict.fromkeys(place for place, _ in rules())
    lot = random.Random(options.seed)
    chosen: dict[str, Mutation] = {}
    for place in places:
        found = list(_at(place))
        if options.sample is not None:
            found = lot.sample(found, min(options.sample, len(found)))
        chosen |= {one.id: one for one in found}
    if options.sample is not None:
        chosen = dict(lot.sample(list(chosen.items()), len(chosen)))
    for name in json.loads(options.ids.read_text()) if options.ids else []:
        one = found_again(name, ROOT)
        if one is None:
            print(f"gone      {name}")
        else:
            chosen[name] = one
    return chosen


def rules() -> Iterator[tuple[str, str]]:
    """Each place that decides a rule, and what the rule says."""
    says = ""
    for line in RULES.read_text(encoding="utf-8").splitlines():
        if not line.startswith(" "):
            says = line
            continue
        file, names = line.strip().split(": ")
        for name in names.split(", "):
            yield f"{file}:{name}", says


def _at(place: str) -> Iterator[Mutation]:
    """The wrong versions of a folder, a file, its lines or its function."""
    name, _, part = place.partition(":")
    path = (ROOT / name).resolve()
    for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
        source = file.read_bytes()
        first, last = lines_of(source, part)
        for one in mutations(file.relative_to(ROOT).as_posix(), source):
            if first <= one.line <= last:
                yield one


def lines_of(source: bytes, part: str) -> tuple[int, int]:
    """First and last line of `12`, `12-20`, a function's qualified name, or "" for all."""
    if lines := re.fullmatch(r"(\d+)(?:-(\d+))?", part):
        return int(lines[1]), int(lines[2] or lines[1])
    return spans(source)[part]


def changed_places(revision: str) -> list[str]:
    """The lines of the product that are not as in a revision."""
    told = subprocess.run(
        ["git", "diff", "-U0", "--no-color", revision, "--", "partitiond"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    file = ""
    places = []
    for line in told.splitlines():
        if line.startswith("+++ "):
            file = line.removeprefix("+++ b/")
        elif (hunk := re.match(r"@@ -\S+ \+(\d+)(?:,(\d+))? @@", line)) and file.endswith(".py"):
            first, count = int(hunk[1]), int(hunk[2] or 1)
            places += [f"{file}:{first}-{first + count - 1}"] if count else []
    return places


def _test_files(paths: Iterable[str]) -> Iterator[str]:
    for path in paths:
        if (ROOT / path).is_dir():
            for file in sorted((ROOT / path).rglob("test_*.py")):
                yield file.relative_to(ROOT).as_posix()
        else:
            yield path


def _lines(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _compare(old: Path, new: Path) -> int:
    """Say what got through that did not before, and how many of each there are."""
    before, after = ({line["id"]: line for line in _lines(path)} for path in (old, new))
    both = [name for name in before if name in after]
    for kind, lines in (("old", before), ("new", after)):
        refused = sum(lines[name]["result"] == "refused" for name in both)
        print(f"{kind}: {refused} of {len(both)} refused")
    print(f"{len(before) - len(both)} of OLD are not in NEW")
    lost = 0
    for name in both:
        was, is_now = before[name], after[name]
        if was["result"] == "refused" != is_now["result"]:
            lost += 1
            print(f"lost      {name}\n    {is_now['told']}")
            print(f"    was refused by {was['by']} {was.get('again', '')}")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
