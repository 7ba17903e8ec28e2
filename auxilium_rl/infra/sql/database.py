"""Opening a database and bringing its schema up to date."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Connection,
    Engine,
    Table,
    create_engine,
    event,
    insert,
    inspect,
    literal,
    select,
    text,
    update,
)
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import StaticPool

from auxilium_rl.core.errors import StoreBusy, StoreUnavailable

__all__ = ["HEAD", "migrate", "open_database", "put_row", "reading", "schema_version", "writing"]

HEAD = "0005"
"""The newest migration; known here so that a server whose schema is up to date need not import Alembic (0.15 s)."""

_PATIENCE = 30.0
_IDLE_TIMEOUT_MS = 15_000
_MIGRATION_WAIT_S = 60


def open_database(url: str) -> Engine:
    """An engine for ``url``: for SQLite with WAL, ``synchronous=FULL`` and write transactions that begin IMMEDIATE.

    SQLite in memory is for one thread of one process.

    Raises:
        StoreUnavailable: the URL cannot be used; the message holds no password.
    """
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() != "sqlite":
            return create_engine(
                parsed, pool_pre_ping=True, pool_size=10, max_overflow=20, connect_args=_connect_args(parsed)
            )
        if parsed.database in {None, "", ":memory:"}:  # one connection is the whole database
            engine = create_engine(parsed, poolclass=StaticPool, connect_args={"check_same_thread": False})
        else:
            Path(str(parsed.database)).parent.mkdir(parents=True, exist_ok=True)
            engine = create_engine(parsed, pool_size=10, max_overflow=40, connect_args={"check_same_thread": False})
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        raise StoreUnavailable(f"DATABASE_URL cannot be used: {type(error).__name__}") from error
    except OSError as error:
        raise StoreUnavailable(f"the folder of the database {parsed.database} cannot be made: {error}") from error
    event.listen(engine, "connect", _set_up_sqlite)
    return engine


def _connect_args(url: URL) -> dict[str, Any]:
    """A process that is stopped inside of a transaction must not keep its locks for ever."""
    if url.get_driver_name().startswith("psycopg") and "options" not in url.query:
        return {"options": f"-c idle_in_transaction_session_timeout={_IDLE_TIMEOUT_MS}"}
    return {}


def _set_up_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves; the driver's own BEGIN comes too late
    for pragma in (
        f"busy_timeout={int(_PATIENCE * 1000)}",
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
    ):
        connection.execute(f"PRAGMA {pragma}")


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A connection to read with. Raises StoreUnavailable."""
    with _translated(), engine.connect() as connection:
        yield connection


@contextmanager
def writing(engine: Engine, patience: float = _PATIENCE) -> Iterator[Connection]:
    """A connection in a transaction that is committed at the end, or rolled back when the block raises.

    Args:
        patience: seconds to wait for the lock of SQLite.

    Raises:
        StoreBusy: somebody else had that lock all the time.
        StoreUnavailable: the database cannot be written.
    """
    with _translated(), engine.connect() as connection:
        if engine.dialect.name != "sqlite":
            with connection.begin():
                yield connection
            return
        _begin(connection, patience)
        try:
            yield connection
        except BaseException:
            connection.exec_driver_sql("ROLLBACK")
            raise
        connection.exec_driver_sql("COMMIT")


def _begin(connection: Connection, patience: float) -> None:
    if patience == _PATIENCE:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        return
    connection.exec_driver_sql(f"PRAGMA busy_timeout={int(patience * 1000)}")
    try:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    finally:
        connection.exec_driver_sql(f"PRAGMA busy_timeout={int(_PATIENCE * 1000)}")


def put_row(
    engine: Engine, table: Table, key: Mapping[str, Any], values: Mapping[str, Any], patience: float = _PATIENCE
) -> None:
    """Write the row of a key, whether there is one or not, whoever else does so at the same time.

    Raises:
        StoreUnavailable: the database cannot be written; ``patience`` is that of ``writing``.
    """
    try:
        _put_row(engine, table, key, values, patience)
    except IntegrityError:  # somebody else made it in that moment, so now it is there
        _put_row(engine, table, key, values, patience)


def _put_row(engine: Engine, table: Table, key: Mapping[str, Any], values: Mapping[str, Any], patience: float) -> None:
    with writing(engine, patience) as connection:
        # Looked for without a lock: on a row that is not there, locks of two who insert it block each other on MariaDB.
        if connection.execute(select(literal(1)).select_from(table).filter_by(**key)).first() is None:
            connection.execute(insert(table).values(**key, **values))
        else:
            connection.execute(update(table).filter_by(**key).values(**values))


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except IntegrityError:  # the caller's own question: does this key exist already?
        raise
    except DBAPIError as error:
        if "database is locked" in str(error.orig):  # SQLite's words
            raise StoreBusy(f"the database cannot be used: {error.orig}") from error
        raise StoreUnavailable(f"the database cannot be used: {error.orig}") from error
    except SQLAlchemyError as error:
        raise StoreUnavailable(f"the database cannot be used: {error}") from error


def migrate(engine: Engine) -> None:
    """Bring the schema to ``HEAD``. Several processes may do so at once; one does it.

    Raises:
        StoreUnavailable: the database cannot be used, or its schema is newer than this program.
    """
    version = schema_version(engine)
    if version == HEAD:
        return
    if version is not None and version > HEAD:
        raise StoreUnavailable(
            f"the database has schema {version}, but this program knows schemas up to {HEAD}; "
            "upgrade the program, or use the database of its own version"
        )
    from auxilium_rl.infra.sql.migrating import upgrade

    with _alone(engine) as connection:
        upgrade(connection)


@contextmanager
def _alone(engine: Engine) -> Iterator[Connection]:
    """A connection in a transaction, while no other process migrates."""
    if engine.dialect.name not in {"mysql", "mariadb"}:
        with writing(engine) as connection:
            if engine.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(4711206)"))
            yield connection
        return
    # Every change of a table ends the transaction there, so the lock is a session's: of another one, so that all is
    # committed when it is let go.
    with reading(engine) as guard:
        if guard.execute(text(f"SELECT GET_LOCK('auxilium_migrate', {_MIGRATION_WAIT_S})")).scalar() != 1:
            raise StoreUnavailable(f"another server migrates the database, for longer than {_MIGRATION_WAIT_S} s")
        try:
            with writing(engine) as connection:
                yield connection
        finally:
            guard.execute(text("SELECT RELEASE_LOCK('auxilium_migrate')"))


def schema_version(engine: Engine) -> str | None:
    """The schema that a database has; None: it has none. Raises StoreUnavailable."""
    with reading(engine) as connection:
        if not inspect(connection).has_table("alembic_version"):
            return None
        version: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
        return version
