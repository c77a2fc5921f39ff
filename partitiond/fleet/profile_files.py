"""Reads profiles from a file, several files or a folder, of this and older schemas."""

import dataclasses
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

from partitiond import serde
from partitiond.core.checks import beyond, numbers_of
from partitiond.core.errors import InputError, ProfileError
from partitiond.core.profile.record import SCHEMA_VERSION, Profile
from partitiond.platform.bounded_files import content

OLDEST_SCHEMA = 1
MAX_BATCH: Final = 1_000_000
"""Far beyond any engine; a number larger than this is a mistake."""
MOST_BYTES: Final = 4 * 1024**2
"""The control API has the same limit; some hundred points need a tenth of it."""
_ID: Final = re.compile(r"(?=.*\S)[^\x00-\x1f\x7f]{1,300}")


def check_schema(data: Any) -> Any:
    """Return the data unchanged. Raises ProfileError if its schema version cannot be read."""
    if not isinstance(data, dict):
        return data
    version = data.get("schema_version", SCHEMA_VERSION)
    if version is not True and version in range(OLDEST_SCHEMA, SCHEMA_VERSION + 1):
        return data
    newer = isinstance(version, int) and version > SCHEMA_VERSION
    raise ProfileError(
        f"the profile is of schema {version!r}; this partitiond reads "
        f"{OLDEST_SCHEMA} to {SCHEMA_VERSION}.",
        hint="A newer partitiond wrote it: update this one."
        if newer
        else "Give a file that `partitiond profile show --json` wrote.",
        facts={"schema_version": version, "newest": SCHEMA_VERSION},
    )


def in_present_schema(profile: Profile) -> Profile:
    """Convert a profile of an older schema; fields that the older schema lacks stay unknown."""
    return dataclasses.replace(profile, schema_version=SCHEMA_VERSION)


def check_sound(profile: Profile) -> Profile:
    """Return the profile unchanged. Raises ProfileError if no engine can have its figures.

    Reading checks the types; this function checks what types cannot express. A plan from a
    negative rate or from two points of one batch would be wrong without any message.
    """
    problem = next(_unsound(profile), None)
    if problem is not None:
        raise ProfileError(
            f"the profile cannot be right: {problem}.",
            hint=_EXPORTED,
            facts={"profile": profile.id},
        )
    return profile


def _unsound(profile: Profile) -> Iterator[str]:
    if not _ID.fullmatch(profile.id):
        yield f"{profile.id[:300]!r} is no id (1 to 300 printable characters)"
    batches = [point.batch for point in profile.points]
    if len(set(batches)) < len(batches):
        yield "two of its points have the same batch"
    if any(not 1 <= batch <= MAX_BATCH for batch in batches):
        yield f"a batch is not between 1 and {MAX_BATCH}"
    if batches and profile.knee.batch is not None and profile.knee.batch not in batches:
        yield f"its knee is at batch {profile.knee.batch}, which is none of its points"
    yield from _unsound_figures(profile)


_NEVER_NEGATIVE: Final = (
    "output_tokens_per_s", "req_per_s", "half_width", "kv_tokens", "footprint_bytes", "ttft.p95",
    "tpot.p95", "kv_cache_tokens", "peak_bytes",
)  # fmt: skip


def _unsound_figures(profile: Profile) -> Iterator[str]:
    for place, number in numbers_of(profile):
        if wrong := beyond(place, number):
            yield f"{place} {wrong}, got {number}"
        if number < 0 and place.endswith(_NEVER_NEGATIVE):
            yield f"{place} is {number}"


def profile_from_json(text: str | bytes) -> Profile:
    """Read a profile of any readable schema, and convert it to the present schema.

    Raises:
        ProfileError: the text is not JSON, of a newer schema, not a profile, or not a sound one.
    """
    try:
        data = json.loads(text, parse_constant=_no_number)
    except RecursionError as error:
        raise ProfileError("not a profile: nested too deeply.", hint=_EXPORTED) from error
    except ValueError as error:
        raise ProfileError(f"not JSON: {error}.", hint=_EXPORTED) from error
    if isinstance(data, dict):
        data.pop("stale", None)  # what `profile show --json` says beside the profile
    try:
        return check_sound(in_present_schema(serde.from_jsonable(Profile, check_schema(data))))
    except ProfileError:
        raise
    except InputError as error:
        raise ProfileError(
            error.message, hint=error.hint or _EXPORTED, facts=error.facts
        ) from error


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number in JSON")


_EXPORTED = "Give a file that `partitiond profile show --json` wrote."


def read_profile(path: Path) -> Profile:
    """Return a profile from an exported file. Raises ProfileError."""
    text = content(path, _EXPORTED, ProfileError, MOST_BYTES)
    try:
        return profile_from_json(text)
    except ProfileError as error:
        raise ProfileError(
            f"{path}: {error.message}", hint=error.hint, facts=error.facts
        ) from error


def profile_paths(paths: Iterable[Path]) -> Sequence[Path]:
    """Return the files that the paths name; a folder for its .json files, below it too.

    Raises:
        ProfileError: a folder holds no .json file, or cannot be read.
    """
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        try:
            next(path.iterdir(), None)  # a folder that cannot be read is not an empty one
            inside = sorted(path.rglob("*.json"))
        except OSError as error:
            raise ProfileError(
                f"{path} cannot be read: {error.strerror}.", hint="Check the folder."
            ) from error
        if not inside:
            raise ProfileError(f"there is no .json file in {path}.", hint=_EXPORTED)
        found += inside
    return tuple(dict.fromkeys(found))
