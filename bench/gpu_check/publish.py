"""Puts what a check measured where readers find it: `python -m bench.gpu_check.publish OUT`.

Profiles go to `profiles/HARDWARE/`, and the tables between two marks of `docs/benchmarks.md` are
written anew from the checkpoint, so that no figure of a GPU is copied by hand. What is simulated is
refused.
"""

import argparse
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bench.gpu_check import report
from bench.gpu_check.ledger import Ledger, replace_file
from bench.gpu_check.scale import REAL
from bench.gpu_check.side_by_side import ROOT
from bench.gpu_check.steps import all_steps
from partitiond.core.errors import InputError, PartitiondError
from partitiond.fleet.profile_files import read_profile

BEGIN, END = "<!-- gpu-check {}: begin -->", "<!-- gpu-check {}: end -->"
HEADING: Final = "## On a GPU\n"
NEXT: Final = "Next: make docs"
UNRUN: Final = " No GPU has run it yet."


def main(words: Sequence[str] | None = None) -> int:
    """Publish one folder of results; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_check.publish")
    parser.add_argument("out", type=Path, help="folder of results, as --out of the check")
    parser.add_argument("--root", type=Path, default=ROOT, help="the source tree")
    given = parser.parse_args(words)
    try:
        print("\n".join(published(given.out, given.root)))
    except PartitiondError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def published(out: Path, root: Path) -> list[str]:
    """Copy the profiles and rewrite the tables; return what was written, and what is next.

    Raises:
        InputError: the folder has no results of a GPU.
        ProfileError: one of its profiles is broken; then nothing is written.
    """
    ledger = Ledger.open(out)
    subject = ledger.subject
    if subject.scale != REAL.name:
        raise InputError(
            f"{out} holds results of scale {subject.scale}: nothing of it was measured on a GPU.",
            hint="Run the check without --fake.",
        )
    folder = root / "profiles" / subject.hardware
    found = sorted((out / "profiles").glob("*.json"))
    for profile in found:
        read_profile(profile)  # a broken one would break what reads the folder
    folder.mkdir(parents=True, exist_ok=True)
    said = [str(shutil.copy(profile, folder / profile.name)) for profile in found]
    page = root / "docs" / "benchmarks.md"
    replace_file(page, with_tables(page.read_text(encoding="utf-8"), ledger))
    return [*said, str(page), NEXT]


def tables(ledger: Ledger) -> str:
    """The tables of every step that has results, as Markdown below level-3 headings."""
    parts = []
    for step in all_steps():
        done = [trial for trial in step.trials(REAL) if ledger.data(trial.id)]
        rows = [row for trial in done for row in ledger.data(trial.id).get("rows", [])]
        notes = [note for trial in done for note in ledger.data(trial.id).get("notes", [])]
        if rows:
            parts.append(report.Section(step.title, tuple(dict.fromkeys(notes)), tuple(rows)))
    text = report.markdown(parts)
    return re.sub(r"^#+ ", "#### ", text, flags=re.MULTILINE)


def title(ledger: Ledger) -> str:
    """The GPU's name here, the engine, and the driver where it was asked."""
    facts = {row.get("fact"): row.get("value") for row in ledger.data("1.facts").get("rows", [])}
    driver = f", driver {facts['driver']}" if facts.get("driver") else ""
    return f"{ledger.subject.hardware}, {ledger.subject.engine}{driver}"


def with_tables(page: str, ledger: Ledger) -> str:
    """The page with this GPU's tables in place of its earlier ones, or after the heading's text.

    Raises:
        InputError: the page has no such heading.
    """
    page = page.replace(UNRUN, "")
    begin, end = (mark.format(ledger.subject.hardware) for mark in (BEGIN, END))
    commands = "\n".join(f"$ {command}" for command in ledger.commands)
    block = (
        f"{begin}\n### {title(ledger)}\n\n```console\n{commands}\n```\n\n"
        f"{tables(ledger).strip()}\n{end}"
    )
    if begin in page and end in page:
        before, _, rest = page.partition(begin)
        return before + block + rest.partition(end)[2]
    before, found, rest = page.partition(HEADING)
    if not found:
        raise InputError("the page has no heading for GPUs.", hint=f"It needs: {HEADING.strip()}")
    at = rest.find("\n## ")
    at = len(rest) if at < 0 else at
    return f"{before}{found}{rest[:at].rstrip()}\n\n{block}\n{rest[at:]}"


if __name__ == "__main__":
    sys.exit(main())
