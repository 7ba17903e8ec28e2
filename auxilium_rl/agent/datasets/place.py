"""Where an export is written: aside, so that what has the final name is whole."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from auxilium_rl.client.errors import InvalidArgument

__all__ = ["free", "new_place"]


def free(out: Path) -> None:
    """Raises InvalidArgument where something lies at ``out``, or there is no folder to lay it in."""
    folder = out.absolute().parent
    if out.exists():
        raise InvalidArgument.of("out", f"{out} exists already; a new name is accepted")
    if not folder.is_dir():
        raise InvalidArgument.of("out", f"{out}: there is no folder {folder}")


@contextmanager
def new_place(out: Path) -> Iterator[Path]:
    """A path beside ``out`` for a file or folder that becomes ``out`` at the end; of a failure nothing is left.

    Raises:
        InvalidArgument: as ``free``; or the disk refuses.
    """
    free(out)
    aside = out.with_name(f".{out.name}.part")
    try:
        _remove(aside)  # of an export that was killed
        yield aside
        aside.rename(out)
    except OSError as error:
        raise InvalidArgument.of("out", f"{out}: {error}") from error
    finally:
        _remove(aside)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
