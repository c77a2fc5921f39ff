"""Profiles as files: reading one, several or a folder of them, of this and older schemas."""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from partitiond import serde
from partitiond.core.errors import InputError, ProfileError
from partitiond.core.profile import SCHEMA_VERSION, Profile
from partitiond.core.units import format_bytes

OLDEST_SCHEMA = 1
MAX_FILE_BYTES = 4 * 1024**2
"""As much as the control API takes; some hundred points need a tenth of it."""


def check_schema(data: Any) -> Any:
    """The same data. Raises ProfileError where it says that it is of a schema we cannot read."""
    if not isinstance(data, dict):
        return data
    version = data.get("schema_version", SCHEMA_VERSION)
    if version in range(OLDEST_SCHEMA, SCHEMA_VERSION + 1):
        return data
    newer = isinstance(version, int) and version > SCHEMA_VERSION
    raise ProfileError(
        f"the profile is of schema {version!r}; this partitiond reads "
        f"{OLDEST_SCHEMA} to {SCHEMA_VERSION}.",
        hint="A newer partitiond wrote it: update this one."
        if newer
        else "Give a file that `partitiond profiles export` wrote.",
        facts={"schema_version": version, "newest": SCHEMA_VERSION},
    )


def in_present_schema(profile: Profile) -> Profile:
    """A profile of an older schema as one of this: what the older did not hold stays unknown."""
    return dataclasses.replace(profile, schema_version=SCHEMA_VERSION)


def profile_from_json(text: str | bytes) -> Profile:
    """A profile of any schema that can be read, in the present one.

    Raises:
        ProfileError: it is no JSON, of a newer schema, or not a profile.
    """
    try:
        data = json.loads(text)
    except ValueError as error:
        raise ProfileError(f"not JSON: {error}.", hint=_EXPORTED) from error
    try:
        return in_present_schema(serde.from_jsonable(Profile, check_schema(data)))
    except ProfileError:
        raise
    except InputError as error:
        raise ProfileError(
            error.message, hint=error.hint or _EXPORTED, facts=error.facts
        ) from error


_EXPORTED = "Give a file that `partitiond profiles export` wrote."


def read_profile(path: Path) -> Profile:
    """A profile from an exported file. Raises ProfileError."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ProfileError(
                f"{path} is larger than {format_bytes(MAX_FILE_BYTES)}.", hint=_EXPORTED
            )
        return profile_from_json(path.read_bytes())
    except OSError as error:
        raise ProfileError(
            f"{path} cannot be read: {error.strerror}.", hint="Check the path."
        ) from error
    except ProfileError as error:
        if error.message.startswith(str(path)):
            raise
        raise ProfileError(
            f"{path}: {error.message}", hint=error.hint, facts=error.facts
        ) from error


def profile_paths(paths: Iterable[Path]) -> Sequence[Path]:
    """The files that these name: a folder stands for the .json files right in it, by name.

    Raises:
        ProfileError: a folder holds none, or cannot be read.
    """
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        try:
            inside = sorted(file for file in path.iterdir() if file.suffix == ".json")
        except OSError as error:
            raise ProfileError(
                f"{path} cannot be read: {error.strerror}.", hint="Check the folder."
            ) from error
        if not inside:
            raise ProfileError(f"there is no .json file in {path}.", hint=_EXPORTED)
        found += inside
    return tuple(dict.fromkeys(found))
