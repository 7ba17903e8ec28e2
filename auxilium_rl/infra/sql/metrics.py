"""``SqlMetricStore``: what the trainer logged, in SQL."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Engine, Insert, select
from sqlalchemy.dialects import mysql, postgresql, sqlite

from auxilium_rl.core.dto import MetricPoint
from auxilium_rl.infra.sql.database import reading, writing
from auxilium_rl.infra.sql.tables import metrics, runs
from auxilium_rl.infra.sql.times import from_micros, to_micros

__all__ = ["SqlMetricStore"]


class SqlMetricStore:
    """A ``MetricStore``. NaN and infinities are kept as text, since not every database has them as numbers."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._insert = _insert_or_ignore(engine.dialect.name)

    def append(self, run_id: str, epoch: int, points: Sequence[MetricPoint]) -> bool:
        """See ``MetricStore``."""
        mine = select(runs.c.number).where(runs.c.run_id == run_id, runs.c.lease_epoch == epoch).with_for_update()
        with writing(self._engine) as connection:
            if connection.execute(mine).scalar() is None:
                return False
            if points:
                connection.execute(self._insert, [_row(run_id, point) for point in points])
        return True

    def since(self, run_id: str, after_id: int = 0, limit: int = 1000) -> Sequence[MetricPoint]:
        """See ``MetricStore``."""
        statement = (
            select(metrics)
            .where(metrics.c.run_id == run_id, metrics.c.id > after_id)
            .order_by(metrics.c.id)
            .limit(limit)
        )
        with reading(self._engine) as connection:
            return [_point(row) for row in connection.execute(statement)]


def _insert_or_ignore(dialect: str) -> Insert:
    if dialect in {"mysql", "mariadb"}:
        return mysql.insert(metrics).prefix_with("IGNORE")
    if dialect == "postgresql":
        return postgresql.insert(metrics).on_conflict_do_nothing()
    return sqlite.insert(metrics).on_conflict_do_nothing()


def _row(run_id: str, point: MetricPoint) -> dict[str, Any]:
    finite = math.isfinite(point.value)
    return {
        "run_id": run_id,
        "key": point.key,
        "step": point.step,
        "value": point.value if finite else None,
        "special": None if finite else str(float(point.value)),
        "time": to_micros(point.time),
    }


def _point(row: Any) -> MetricPoint:
    value = row.value if row.special is None else float(row.special)
    return MetricPoint(row.key, row.step, value, from_micros(row.time), row.id)
