"""Puts numbers into words, and what stops a replica on a device, with what would help."""

from typing import Final

from partitiond.planner.check.fault import Kind

CLOSE: Final = 0.98
"""Sizes from this share of the best size's rate per device on count as equally good. Chosen."""
KINDS: Final = {
    Kind.HARDWARE: ("No profile for the hardware", "Profile the model on this hardware."),
    Kind.CORDONED: ("Cordoned", "Take the cordon off, or add a device."),
    Kind.ONLY_ON: ("A rule (only_on)", "Widen only_on."),
    Kind.NEAR: ("A rule (near)", "Take the other model out of near."),
    Kind.AVOID: ("A rule (avoid)", "Take the other model out of avoid."),
    Kind.ISOLATION: (
        "Isolation",
        "Free a device that others use, add one, or lower the isolation.",
    ),
    Kind.GROUP: (
        "Isolation groups",
        "Use another sharing mode or device, or one group for both.",
    ),
    Kind.MODE: (
        "Another sharing mode",
        "Allow the mode on a device, free one that others use, or profile another mode.",
    ),
    Kind.REPLICAS: (
        "The device's own limit",
        "Raise max_replicas of the device, or add a device.",
    ),
    Kind.SLICES: (
        "No MIG slice left",
        "Profile it in another size, or free the memory slices that others hold.",
    ),
    Kind.FIXED: (
        "No MIG slice left",
        "Make such an instance (`nvidia-smi mig -cgi`), or let plans make it: set "
        "gpu.mig_changes to instances.",
    ),
    Kind.MEMORY: (
        "Too little memory",
        "Use a larger device or slice, a shorter context or a smaller model.",
    ),
    Kind.SMS: (
        "Too few SMs",
        "Profile a smaller size, lower occupied_sm_percent, or add a device.",
    ),
    Kind.CORES: ("Too few cores", "Profile it on fewer cores, or use a larger device."),
    Kind.HOST: ("Too little left of the host", "Add memory or cores to a host."),
    Kind.INTERFERENCE: (
        "Too much interference",
        "Profile a smaller size, or use a larger device.",
    ),
    Kind.SLO: ("Too much interference", "Loosen the SLO or use a faster device."),
}
"""By what stops a replica: the opening of a sentence about it, and what would help if it stops a
model on every device."""


def counted(number: int, word: str) -> str:
    """Format a number with its word in the singular or plural."""
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}s"


def figure(value: float, digits: int = 3) -> str:
    """Format with some significant digits; large numbers whole and grouped, never as 1e+05."""
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"
