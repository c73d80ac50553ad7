"""Sizes of the data caches of this machine."""

from __future__ import annotations

from pathlib import Path

__all__ = ["cache_sizes"]


def cache_sizes() -> dict[str, int]:
    """Bytes of the first core's data caches by level, "L1" and so on; those that the system tells."""
    found = {}
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, kind, size = ((folder / name).read_text().strip() for name in ("level", "type", "size"))
            if kind != "Instruction":
                found[f"L{level}"] = 1024 * int(size.removesuffix("K"))
        except (OSError, ValueError):
            continue
    return found
