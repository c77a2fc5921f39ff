"""Makes an interpreter that also sees a folder made by `pip install --target`.

The runner starts engines with an environment that it builds, and queries interpreters in isolated
mode, so PYTHONPATH reaches neither. Both see a virtual environment without pip whose .pth file
names the folder, followed by the interpreter's own packages.
"""

import json
import subprocess
from pathlib import Path
from typing import Final

from partitiond.core.errors import EngineUnavailableError

_SITES: Final = (
    "import json, sys; print(json.dumps([p for p in sys.path "
    "if p.endswith(('site-packages', 'dist-packages'))]))"
)
_PURELIB: Final = "import sysconfig; print(sysconfig.get_path('purelib'))"


def with_folder(python: Path, packages: Path, environment: Path) -> Path:
    """The interpreter of an environment at `environment` that sees `packages` first.

    Raises:
        EngineUnavailableError: the folder is missing, or the interpreter does not work.
    """
    if not packages.is_dir():
        raise EngineUnavailableError(
            f"there is no folder {packages}.",
            hint="Make it with: pip install --target FOLDER vllm==VERSION.",
        )
    try:
        sites = json.loads(_ask([str(python), "-c", _SITES]))
        made = environment / "bin" / "python"
        if not made.exists():
            _ask([str(python), "-m", "venv", "--without-pip", str(environment)])
        purelib = Path(_ask([str(made), "-I", "-c", _PURELIB]).strip())
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise EngineUnavailableError(
            f"no environment can be made with {python}: {error}.",
            hint="Name a Python 3 with its venv module by --engine-python.",
        ) from error
    folders = [str(packages.absolute()), *sites]
    # addsitedir, not plain paths: it reads the .pth files inside the folders as well.
    lines = [f"import site; site.addsitedir({folder!r})" for folder in folders]
    (purelib / "engine.pth").write_text("\n".join(lines) + "\n")
    return made


def _ask(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
