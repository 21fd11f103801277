"""What the figures were measured on, and how tables of them are printed."""

from __future__ import annotations

import datetime
import os
import platform
import sqlite3
import ssl
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

__all__ = ["columns", "describe", "filesystem"]


def describe() -> dict[str, Any]:
    """Return what a reader needs to compare: processor, memory, system, versions, the load of others."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "openssl": ssl.OPENSSL_VERSION,
        "sqlite": sqlite3.sqlite_version,
        "filesystem": filesystem(tempfile.gettempdir()),
        "load_before": _load(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def filesystem(path: str) -> str:
    """Return the type of the filesystem that holds a path, where Linux tells."""
    if sys.platform != "linux":
        return ""
    device = os.stat(path).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
        for mount in mounts:
            fields = mount.split()
            if fields[2] == wanted:
                return fields[fields.index("-") + 1]
    return ""


def columns(rows: Sequence[Sequence[object]]) -> str:
    """Return rows as text in columns, the first one to the left and the others to the right."""
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    lines = []
    for first, *rest in texts:
        cells = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    return "\n".join(lines)


def _memory_gib() -> int | None:
    if sys.platform == "win32":
        return None
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)


def _load() -> float | None:
    if sys.platform == "win32":
        return None
    return round(os.getloadavg()[0], 2)


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux: the platform's own word for it
    return platform.processor() or platform.machine()
