"""The database's own clock: leases are compared on one clock, however many machines write."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

__all__ = ["database_now"]


class database_now(FunctionElement[int]):  # noqa: N801 - it reads as SQLAlchemy's own functions
    """Microseconds since 1970 in UTC, when the statement is executed."""

    type = BigInteger()
    inherit_cache = True


@compiles(database_now, "sqlite")
def _sqlite(_element: Any, _compiler: Any, **_: Any) -> str:
    return "CAST((julianday('now') - 2440587.5) * 86400000000.0 AS INTEGER)"


@compiles(database_now, "postgresql")
def _postgresql(_element: Any, _compiler: Any, **_: Any) -> str:
    # now() would be the transaction's beginning.
    return "CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT)"


@compiles(database_now, "mysql", "mariadb")
def _mysql(_element: Any, _compiler: Any, **_: Any) -> str:
    return "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))"
