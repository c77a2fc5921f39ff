"""Names sources of Python packages to uv, which reads its own configuration (UV_* and uv.toml)."""

import dataclasses
from pathlib import Path


@dataclasses.dataclass(frozen=True, slots=True)
class PackageSources:
    """Sources of packages that the settings name.

    Attributes:
        indexes: indexes beside the default one. Of all sources, the best version wins.
        wheel_folders: folders with wheels.
        offline: use no index, only the folders.
    """

    indexes: tuple[str, ...] = ()
    wheel_folders: tuple[Path, ...] = ()
    offline: bool = False

    def arguments(self) -> list[str]:
        """Return options for uv's commands that look for packages."""
        folders = [word for folder in self.wheel_folders for word in ("--find-links", str(folder))]
        if self.offline:
            return ["--no-index", *folders]
        indexes = [word for index in self.indexes for word in ("--index", index)]
        return [*indexes, "--index-strategy", "unsafe-best-match", *folders]


def uv_program() -> str:
    """Return the path of uv, which is installed beside this Python.

    Raises:
        FileNotFoundError: there is no uv.
    """
    import uv

    return str(uv.find_uv_bin())
