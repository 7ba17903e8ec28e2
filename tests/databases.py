"""Real databases for tests: one of its own for whoever asks, dropped afterwards."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

__all__ = ["KINDS", "database"]

KINDS = ("sqlite", "postgresql", "mariadb")
_SERVERS = {
    "postgresql": (
        "postgresql+psycopg://postgres@127.0.0.1:5432",
        5432,
        "docker run -p 5432:5432 -e POSTGRES_HOST_AUTH_METHOD=trust postgres",
    ),
    "mariadb": (
        "mariadb+pymysql://root@127.0.0.1:3306",
        3306,
        "docker run -p 3306:3306 -e MARIADB_ALLOW_EMPTY_ROOT_PASSWORD=1 mariadb",
    ),
}


@contextmanager
def database(kind: str, folder: Path) -> Iterator[str]:
    """The URL of an empty database. Skips where its server does not run, or fails if AUXILIUM_ALL_DATABASES is set."""
    if kind == "memory":
        yield "sqlite://"
        return
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'registry.db'}"
        return
    server, port, how = _SERVERS[kind]
    if not _listens(port):
        reason = f"nothing listens on 127.0.0.1:{port}; start {kind} to try this: {how}"
        if os.environ.get("AUXILIUM_ALL_DATABASES"):
            pytest.fail(reason)
        pytest.skip(reason)
    name = f"auxilium_{uuid.uuid4().hex[:12]}"
    maintenance = {"postgresql": "/test", "mariadb": "/test"}[kind]
    engine = create_engine(f"{server}{maintenance}", isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        yield f"{server}/{name}"
        with engine.connect() as connection:
            force = " WITH (FORCE)" if kind == "postgresql" else ""
            connection.execute(text(f"DROP DATABASE {name}{force}"))
    finally:
        engine.dispose()


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1.0).close()
    except OSError:
        return False
    return True
