"""Changes settings in a settings file, and leaves the rest of the file as it is."""

import copy
import json
import os
import re
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from partitiond.core.errors import InputError, SettingsError
from partitiond.platform.durable_file import write_durably
from partitiond.serde import toml_of
from partitiond.settings.schema import Settings, load_settings
from partitiond.settings.sources import from_overrides

_HEADER: Final = re.compile(r"^\s*\[")


def write_settings(file: Path, texts: Mapping[str, str]) -> dict[str, object]:
    """Write settings to a file, which is made if it is missing; return their plain values.

    Args:
        texts: by dotted key, the value as after --set; empty takes the setting out of the file.

    Raises:
        SettingsError: a key or a value is refused, or the file cannot be written or changed.
    """
    file = file.resolve()  # a link stays one
    values = from_overrides(Settings, texts, "the setting").values
    written = {key: values[key] if text else None for key, text in texts.items()}
    try:
        made = file.read_text(encoding="utf-8") if file.exists() else ""
        for key, value in written.items():
            made = with_setting(made, key, value)
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_name(f".{file.name}.{os.getpid()}")
        try:
            draft.write_text(made, encoding="utf-8")
            load_settings(draft)  # alone: the environment may hide what is wrong in it
        except SettingsError as error:
            error.message = error.message.replace(str(draft), str(file))
            raise
        finally:
            draft.unlink(missing_ok=True)
        write_durably(file, made.encode(), drafted=lambda: _let_the_same_read(file))
    except OSError as error:
        raise SettingsError(
            f"{file} cannot be changed: {error.strerror or error}.", hint="Use sudo, or --config."
        ) from error
    return written


def _let_the_same_read(file: Path) -> None:
    """Give the draft of `write_durably` the owner and mode of the file, whose daemon may run as
    another user than who changes it; a new file may be read by all.
    """
    draft = file.with_name(f"{file.name}.new")
    if not file.exists():
        draft.chmod(0o644)
        return
    there = file.stat()
    shutil.chown(draft, there.st_uid, there.st_gid)
    draft.chmod(stat.S_IMODE(there.st_mode))


def with_setting(text: str, key: str, value: object) -> str:
    """Return a TOML file's text with a value for a key, or without the key for None. Pure.

    Raises:
        SettingsError: the file is written in a way that cannot be changed line by line.
    """
    table, _, name = key.rpartition(".")
    lines, first, end = text.splitlines(), 0, None
    headers = [number for number, line in enumerate(lines) if _HEADER.match(line)]
    if table:
        own = [n for n in headers if re.fullmatch(rf"\[\s*{table}\s*\]\s*(#.*)?", lines[n].strip())]
        first = own[0] + 1 if own else -1
    if first < 0 and value is None:
        return text
    if first < 0:
        lines += [*([""] if lines else []), f"[{table}]"]
        first = len(lines)
    end = next((number for number in headers if number >= first), len(lines))
    there = [n for n in range(first, end) if re.match(rf"\s*{name}\s*=", lines[n])]
    line = [] if value is None else [f"{name} = {json.dumps(value, ensure_ascii=False)}"]
    at, after = (there[0], there[0] + 1) if there else (first, first)
    made = "\n".join([*lines[:at], *line, *lines[after:]]) + "\n"
    try:
        wanted = _changed(_read(text), table, name, value)
    except InputError as error:
        message = f"the file is not valid TOML: {error.message}"
        raise SettingsError(message, hint=error.hint) from error
    try:
        if _read(made) == wanted:
            return made
    except InputError:
        pass  # the file has the table in another form, as `proxy = { port = 9000 }`
    raise SettingsError(
        f"{key} stands in the file in a form that is not changed by itself.",
        hint=f"Change it with an editor, or write [{table}] as a table of its own.",
    )


def _read(text: str) -> dict[str, Any]:
    """Return what a text says, without empty tables. Raises InputError."""
    return {k: v for k, v in toml_of(text.encode()).items() if v != {}}


def _changed(nested: Mapping[str, Any], table: str, name: str, value: object) -> dict[str, Any]:
    wanted: dict[str, Any] = copy.deepcopy(dict(nested))
    place = wanted.setdefault(table, {}) if table else wanted
    if value is None:
        place.pop(name, None)
    else:
        place[name] = value
    return {k: v for k, v in wanted.items() if v != {}}
