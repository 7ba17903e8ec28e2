"""The part of the registry that remembers which gyms are owed a ``Close``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

from sqlalchemy import Connection, Engine, and_, insert, select, update

from auxilium_rl.core.dto import GymClose
from auxilium_rl.infra.sql.database import reading, writing
from auxilium_rl.infra.sql.tables import gym_closes
from auxilium_rl.infra.sql.times import to_micros

__all__ = ["GymCloseRows"]

_OWED = gym_closes.c.outcome == ""


class GymCloseRows:
    """Closes owed, as rows: written when a run starts, due when it has ended."""

    def __init__(self, engine: Engine, clock: Callable[[], datetime]) -> None:
        self._engine = engine
        self._clock = clock

    def _now(self) -> int:
        return to_micros(self._clock())

    def owe_closes(self, address: str, gym_ids: Iterable[str]) -> None:
        """See ``RunRegistry``."""
        names = list(gym_ids)
        with writing(self._engine) as connection:
            busy = select(gym_closes.c.gym_id).where(
                gym_closes.c.address == address, gym_closes.c.gym_id.in_(names), _OWED
            )
            held = set(connection.execute(busy).scalars())
            free = [name for name in names if name not in held]
            self._insert_closes(connection, "", address, free, due_at=self._now())

    def due_closes(self, limit: int = 100, hold: float = 60.0) -> Sequence[GymClose]:
        """See ``RunRegistry``."""
        due = and_(gym_closes.c.due_at <= self._now(), _OWED)
        with reading(self._engine) as connection:  # most often there are none, and nobody need wait for a lock
            if connection.execute(select(gym_closes.c.id).where(due).limit(1)).first() is None:
                return []
        statement = select(gym_closes).where(due).order_by(gym_closes.c.id).limit(limit)
        with writing(self._engine) as connection:
            rows = connection.execute(statement.with_for_update(skip_locked=True)).all()
            mine = update(gym_closes).where(gym_closes.c.id.in_([row.id for row in rows]))
            connection.execute(mine.values(due_at=self._now() + int(hold * 1e6)))
            return [GymClose(r.id, r.run_id, r.address, r.gym_id, r.attempts) for r in rows]

    def close_done(self, close_id: int, outcome: str) -> None:
        """See ``RunRegistry``."""
        with writing(self._engine) as connection:
            connection.execute(
                update(gym_closes).where(gym_closes.c.id == close_id, _OWED).values(outcome=outcome[:255], due_at=None)
            )

    def close_failed(self, close_id: int, error: str, retry_in: float) -> None:
        """See ``RunRegistry``."""
        with writing(self._engine) as connection:
            connection.execute(
                update(gym_closes)
                .where(gym_closes.c.id == close_id, _OWED)
                .values(
                    attempts=gym_closes.c.attempts + 1,
                    last_error=error,
                    due_at=self._now() + round(retry_in * 1_000_000),
                )
            )

    @staticmethod
    def _insert_closes(
        connection: Connection, run_id: str, address: str, gym_ids: Iterable[str], due_at: int | None
    ) -> None:
        rows = [{"run_id": run_id, "address": address, "gym_id": name, "due_at": due_at} for name in gym_ids]
        if rows:
            connection.execute(insert(gym_closes), rows)

    @staticmethod
    def _still_to_close(connection: Connection) -> list[str]:
        """The runs that name a gym whose Close, owed for an earlier run, has not been tried yet: it would hit them."""
        names = (gym_closes.c.address, gym_closes.c.gym_id)
        untried = select(*names).where(gym_closes.c.due_at.is_not(None), _OWED, gym_closes.c.attempts == 0)
        pending = {(row.address, row.gym_id) for row in connection.execute(untried)}
        if not pending:
            return []
        gyms = gym_closes.c.gym_id.in_({gym_id for _, gym_id in pending})
        held = select(gym_closes.c.run_id, *names).where(gym_closes.c.due_at.is_(None), _OWED, gyms)
        return [row.run_id for row in connection.execute(held) if (row.address, row.gym_id) in pending]

    def _make_due(self, connection: Connection, run_id: str) -> None:
        connection.execute(update(gym_closes).where(gym_closes.c.run_id == run_id, _OWED).values(due_at=self._now()))
