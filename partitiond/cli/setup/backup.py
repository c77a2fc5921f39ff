"""Implements `partitiond setup backup` and `partitiond setup restore`."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from partitiond.cli.columns import time_text
from partitiond.cli.options import JsonOption, option, settings_of, spread
from partitiond.cli.output import print_json, say, tell
from partitiond.platform.clock import SystemClock

if TYPE_CHECKING:
    from partitiond.store.backup import BackupNotes, Restored


@spread
def backup(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Backup to write (.sqlite3.gz).")],
    *,
    force: bool = option("Replace a file of that name."),
    as_json: JsonOption = False,
) -> None:
    """Write models, profiles, plans and keys to one file.

    The daemon may run meanwhile. The file holds no admin token; keep it as private as the state
    folder all the same.
    """
    from partitiond.store.backup import make_backup

    target = file.expanduser().absolute()
    notes = make_backup(settings_of(ctx), target, created_at=SystemClock().utc_iso(), replace=force)
    if as_json:
        print_json({"file": str(target), **_plain(notes)})
        return
    size = target.stat().st_size / 1024**2
    say(
        f"Backup written to {target}: schema {notes.schema}, {notes.profiles} profiles, "
        f"{size:.1f} MiB."
    )


@spread
def restore(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Backup to restore.")],
    *,
    check: bool = option("Only check the file; change nothing."),
    as_json: JsonOption = False,
) -> None:
    """Put a backup back into the state folder.

    The daemon must be stopped. The file is checked first, all of it; what was there before is
    kept beside the restored store. Engines that still run are adopted by the next daemon, or
    drained where the restored plan does not know them.
    """
    from partitiond.store import backup as backups

    source = file.expanduser().absolute()
    if check:
        _check_only(source, as_json=as_json)
        return
    done = backups.restore(settings_of(ctx), source)
    if as_json:
        print_json(_restored(done))
        return
    _tell(done)


def _check_only(source: Path, *, as_json: bool) -> None:
    from partitiond.store.backup import check_backup

    with tempfile.TemporaryDirectory(prefix="partitiond-check-") as folder:
        notes, migrates = check_backup(source, Path(folder))
    tell(
        {"file": str(source), "migrates": migrates, **_plain(notes)},
        (
            f"{source} is whole: of {time_text(notes.created_at)}, by partitiond "
            f"{notes.partitiond}, schema {notes.schema}"
            f"{' (older: it will be migrated)' if migrates else ''}, {notes.profiles} profiles."
        ),
        as_json=as_json,
    )


def _tell(done: "Restored") -> None:
    say(f"Restored {done.store} as of {time_text(done.notes.created_at)}.")
    if done.kept is not None:
        say(f"What was there before: {done.kept}")
    if done.migrates:
        say("Its schema is an older one: the next start of the daemon migrates it.")
    if done.head:
        say(
            "It is of a head of other hosts, which obey a later start of it: make it their head "
            "first, with `partitiond hosts --take-over`."
        )
    say("Start the daemon again: `systemctl start partitiond`, or `partitiond serve`.")


def _restored(done: "Restored") -> dict[str, Any]:
    return {
        "store": str(done.store),
        "kept": str(done.kept) if done.kept else None,
        "migrates": done.migrates,
        "head": done.head,
        **_plain(done.notes),
    }


def _plain(notes: "BackupNotes") -> dict[str, Any]:
    return {
        "created_at": notes.created_at,
        "partitiond": notes.partitiond,
        "schema": notes.schema,
        "profiles": notes.profiles,
    }
