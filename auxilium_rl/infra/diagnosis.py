"""What an operator wants to know when something does not work: each part looked at by itself, in words."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.engine import make_url

from auxilium_rl.core.errors import AuxiliumError, StoreUnavailable
from auxilium_rl.infra.atomic_files import probe_folder
from auxilium_rl.infra.checkpoint_places import open_place
from auxilium_rl.infra.config import Settings
from auxilium_rl.infra.sql.database import HEAD, open_database, schema_version
from auxilium_rl.infra.sql.registry import SqlRunRegistry

__all__ = ["Finding", "diagnose"]

_LITTLE_SPACE = 1 << 30
_SLOW_SYNC = 0.05


@dataclass(frozen=True)
class Finding:
    """What was found of one part.

    Attributes:
        level: ``ok``, ``warning`` or ``error``.
    """

    level: str
    part: str
    text: str


def diagnose(settings: Settings) -> Iterator[Finding]:
    """Look at everything a server of these settings stands on, without a server."""
    yield Finding("ok", "python", f"{sys.version.split()[0]} on {sys.platform}, {os.cpu_count()} cores")
    folders = {
        "data folder": settings.data_dir.absolute(),
        "models folder": settings.models_folder,
        "logs folder": settings.logs_folder,
        "export root": settings.export_root,
    }
    if "://" in settings.checkpoint_place:
        yield from _told("checkpoints", lambda: _objects(settings.checkpoint_place))
    else:
        folders["checkpoint folder"] = Path(settings.checkpoint_place)
    for part, folder in folders.items():
        yield from _told(part, lambda folder=folder: _folder(folder))  # type: ignore[misc]
    yield from _told("database", lambda: _database(settings))


def _told(part: str, look: Callable[[], tuple[str, str]]) -> Iterator[Finding]:
    try:
        level, text = look()
    except AuxiliumError as error:
        level, text = "error", error.message
    yield Finding(level, part, text)


def _folder(folder: Path) -> tuple[str, str]:
    if not folder.exists():
        parent = next(above for above in folder.parents if above.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK):
            raise StoreUnavailable(f"{folder} is not there, and {parent} cannot be written")
        return "ok", f"{folder} is not there yet; a server makes it"
    begun = time.perf_counter()
    probe_folder(folder)
    took = time.perf_counter() - begun
    free = shutil.disk_usage(folder).free
    text = f"{folder}: written and synced in {took * 1000:.1f} ms, {free / 1e9:.1f} GB free"
    if free < _LITTLE_SPACE:
        return "warning", f"{text}; that is little"
    return ("warning", f"{text}; that is slow") if took > _SLOW_SYNC else ("ok", text)


def _objects(url: str) -> tuple[str, str]:
    place = open_place(url)
    begun = time.perf_counter()
    place.probe()
    return "ok", f"{url}: written in {(time.perf_counter() - begun) * 1000:.1f} ms"


def _database(settings: Settings) -> tuple[str, str]:
    url = make_url(settings.sql_url)
    shown = url.render_as_string(hide_password=True)
    if url.get_backend_name() == "sqlite" and url.database and not Path(url.database).exists():
        return "ok", f"{shown} is not there yet; a server makes it"
    engine = open_database(settings.sql_url)
    try:
        version = schema_version(engine)
        if version is None:
            return "ok", f"{shown} is empty; a server makes its tables"
        if version != HEAD:
            how = "a server brings it up to date" if version < HEAD else "newer than this program; upgrade it"
            return ("warning" if version < HEAD else "error"), f"{shown} has schema {version}, this is {HEAD}: {how}"
        SqlRunRegistry(engine).probe()
    finally:
        engine.dispose()
    return "ok", f"{shown} is written; schema {version}"
