"""Derives the catalog key of a GPU from the name that its driver gives."""

import re
from typing import Final

from partitiond.core.hardware.gpus import HARDWARE
from partitiond.core.units import GIB

_MODELS: Final[tuple[tuple[str, str], ...]] = (
    # Names differ by form factor ("A100-SXM4-80GB", "H100 PCIe"); the memory size decides the rest.
    (r"\bA100\b", "a100"),
    (r"\bH100\b", "h100"),
    (r"\bH200\b", "h200"),
    (r"\bL40S\b", "l40s"),
    (r"\bL40\b", "l40"),
    (r"\bL20\b", "l20"),
    (r"\bL4\b", "l4"),
    (r"(?i)\bRTX 6000 Ada\b", "rtx-6000-ada-generation"),
    (r"\bRTX 4090\b(?! D\b)", "geforce-rtx-4090"),
    (r"\bRTX 5090\b(?! D\b)", "geforce-rtx-5090"),
    (r"\bA6000\b", "rtx-a6000"),
    (r"\bA30\b", "a30"),
    (r"\bB200\b", "b200"),
    (r"\bA10\b", "a10"),
    (r"\bT4\b", "t4"),
)
_SOLD_GB: Final = (8, 10, 11, 12, 16, 20, 24, 32, 40, 48, 64, 72, 80, 94, 96)
_FORMS: Final = ("pcie", "nvl")
"""Form factors that the catalog distinguishes from SXM, as written in its keys."""


def hardware_key(name: str, memory_bytes: int) -> str:
    """Return the catalog's key for a GPU; for an unknown GPU a key made of its name and memory.

    NVML's total memory differs from the nominal size by up to a tenth in either direction.
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
    size = f"{_sold_gb(memory_bytes / GIB)}gb"
    return slug if slug.endswith(size) else f"{slug}-{size}"


def _sold_gb(gib: float) -> int:
    """Return the size as sold, of which ECC takes a sixteenth on cards with GDDR memory: the same
    card has one key with ECC on and off.
    """
    return next((size for size in _SOLD_GB if 0.93 * size <= gib <= 1.01 * size), round(gib))


def _form(text: str) -> str:
    """Return the form factor that a name or key states; empty for SXM or if there is none."""
    return next((form for form in _FORMS if re.search(rf"\b{form}\b", text)), "")
