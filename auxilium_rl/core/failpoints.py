"""Places where a test may kill the process: those between which a checkpoint must be seen whole or not at all.

Off, and one comparison each, unless ``AUXILIUM_FAILPOINTS`` names a folder. A process that reaches a place whose file
``<folder>/<name>.<run id>`` is there removes the file and kills itself, as the power cut of a single process.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

__all__ = ["CHECKPOINT", "reach"]

CHECKPOINT = (
    "before_write",
    "mid_write",
    "before_fsync",
    "before_rename",
    "after_rename",
    "before_row",
    "after_row",
)
"""The places on a checkpoint's way, in order."""

_FOLDER = os.environ.get("AUXILIUM_FAILPOINTS", "")


def reach(name: str, run_id: str) -> None:
    """Die here, if a test wants it."""
    if _FOLDER:
        _look(Path(_FOLDER) / f"{name}.{run_id}")


def _look(path: Path) -> None:
    try:
        path.unlink()
    except FileNotFoundError:
        return
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
