"""The catalog's key of a GPU, from what its driver calls it."""

import re
from typing import Final

from partitiond.core.hardware import HARDWARE
from partitiond.core.units import GIB

_MODELS: Final[tuple[tuple[str, str], ...]] = (
    # Names differ by form factor ("A100-SXM4-80GB", "H100 PCIe"); memory settles the rest.
    (r"\bA100\b", "a100"),
    (r"\bH100\b", "h100"),
    (r"\bH200\b", "h200"),
    (r"\bL40S\b", "l40s"),
    (r"\bL4\b", "l4"),
    (r"\bB200\b", "b200"),
    (r"\bA10\b", "a10"),
    (r"\bT4\b", "t4"),
)
_FORMS: Final = ("pcie", "nvl")
"""Forms that the catalog keeps apart from the SXM one, as they are written in its keys."""


def hardware_key(name: str, memory_bytes: int) -> str:
    """The catalog's key for a GPU, or one made of its name and memory where it knows none.

    NVML's total lies up to a tenth off the nominal size in either direction.
    """
    for pattern, model in _MODELS:
        if re.search(pattern, name):
            near = [
                key
                for key, spec in HARDWARE.items()
                if key.startswith(f"{model}-")
                and abs(spec.memory_bytes - memory_bytes) <= 0.1 * spec.memory_bytes
            ]
            if near:
                return min(near, key=lambda key: _form(key) != _form(name.lower()))
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower().removeprefix("nvidia ")).strip("-")
    size = f"{round(memory_bytes / GIB)}gb"
    return slug if slug.endswith(size) else f"{slug}-{size}"


def _form(text: str) -> str:
    """The form factor that a name or a key states; empty for SXM and for none."""
    return next((form for form in _FORMS if re.search(rf"\b{form}\b", text)), "")
