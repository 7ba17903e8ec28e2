"""Places where a test may kill the process, or stop it: those between which something must be seen whole or not at all.

Off, and one comparison each, unless ``AUXILIUM_FAILPOINTS`` names a folder. A process that reaches a place whose file
``<folder>/<name>.<run id>`` is there removes the file and kills itself, as the power cut of a single process, or stops,
as one that is suspended.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

__all__ = ["CHECKPOINT", "reach", "stop"]

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
    if _FOLDER and _wanted(name, run_id):
        os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))


def stop(name: str, run_id: str) -> None:
    """Stop here until somebody lets the process go on, if a test wants it."""
    if _FOLDER and _wanted(name, run_id):
        # To this thread: of a signal to the process another one may take notice, and this one go on for a moment.
        signal.raise_signal(getattr(signal, "SIGSTOP", signal.SIGTERM))


def _wanted(name: str, run_id: str) -> bool:
    try:
        (Path(_FOLDER) / f"{name}.{run_id}").unlink()
    except FileNotFoundError:
        return False
    return True
