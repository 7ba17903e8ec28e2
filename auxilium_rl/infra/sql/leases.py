"""The part of the registry that gives runs to workers, and takes them back."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, and_, or_, select, update

from auxilium_rl.core import failpoints
from auxilium_rl.core.dto import Run
from auxilium_rl.core.states import RunState
from auxilium_rl.infra.sql.clock import database_now
from auxilium_rl.infra.sql.database import reading, writing
from auxilium_rl.infra.sql.run_rows import RunRows, held_by, is_active, one_less
from auxilium_rl.infra.sql.tables import runs

__all__ = ["RunLeases"]

_PATIENCE = 5.0
"""Seconds to wait for the lock of SQLite before a claim is tried again later: whoever claims has other work."""


class RunLeases(RunRows):
    """Who has a run, until when, and how far it is."""

    def claim_next(self, owner: str, lease: float = 30.0) -> Run | None:
        """See ``RunRegistry``."""
        due = or_(runs.c.retry_at.is_(None), runs.c.retry_at <= self._now())
        waits = or_(runs.c.state == RunState.QUEUED.value, and_(runs.c.state == RunState.INTERRUPTED.value, due))
        with reading(self._engine) as connection:  # most often there are none, and nobody need wait for a lock
            if connection.execute(select(runs.c.run_id).where(waits).limit(1)).first() is None:
                return None
        with writing(self._engine, _PATIENCE) as connection:
            free = runs.c.run_id.not_in(self._still_to_close(connection))
            oldest = select(runs.c.run_id).where(waits, free).order_by(runs.c.number).limit(1)
            run_id = connection.execute(oldest.with_for_update(skip_locked=True)).scalar()
            if run_id is None:
                return None
            connection.execute(
                update(runs)
                .where(runs.c.run_id == run_id)
                .values(
                    state=RunState.STARTING.value,
                    attempt=runs.c.attempt + 1,
                    fruitless_attempts=runs.c.fruitless_attempts + 1,
                    retry_at=None,
                    lease_epoch=runs.c.lease_epoch + 1,
                    lease_owner=owner,
                    lease_expires_at=_after(lease),
                    attempt_started_at=self._now(),
                    state_reason="",
                    updated_at=self._now(),
                )
            )
            return self._get(connection, run_id)

    def renew(self, run_id: str, epoch: int, lease: float) -> str | None:
        """See ``RunRegistry``."""
        mine = held_by(run_id, epoch)
        with writing(self._engine) as connection:
            if connection.execute(update(runs).where(mine).values(lease_expires_at=_after(lease))).rowcount != 1:
                return None
            failpoints.stop("renewing", run_id)
            wish: str | None = connection.execute(select(runs.c.stop_requested).where(mine)).scalar()
            return wish

    def report(
        self, run_id: str, epoch: int, *, timesteps_done: int, steps_per_second: float, engine: str = ""
    ) -> bool:
        """See ``RunRegistry``."""
        values: dict[str, Any] = {"steps_per_second": steps_per_second, "updated_at": self._now()}
        if engine:
            values["engine"] = engine[:512]
        with writing(self._engine) as connection:
            mine = update(runs).where(held_by(run_id, epoch))
            if connection.execute(mine.values(**values)).rowcount != 1:
                return False
            connection.execute(mine.where(runs.c.timesteps_done < timesteps_done).values(timesteps_done=timesteps_done))
            return True

    def put_simulator_session(self, run_id: str, epoch: int, session: str) -> bool:
        """See ``RunRegistry``."""
        mine = update(runs).where(runs.c.run_id == run_id, runs.c.lease_epoch == epoch)
        with writing(self._engine) as connection:
            return connection.execute(mine.values(simulator_session=session)).rowcount == 1

    def silent(self) -> Sequence[tuple[str, int]]:
        """See ``RunRegistry``."""
        with reading(self._engine) as connection:
            found = connection.execute(select(runs.c.run_id, runs.c.lease_epoch).where(is_active(), _silent()))
            return [(row.run_id, row.lease_epoch) for row in found]

    def expire_leases(self, reason: str) -> Sequence[Run]:
        """See ``RunRegistry``."""
        return self._interrupt(_silent(), {"state_reason": reason})

    def interrupt_orphans(self, owner: str, reason: str) -> Sequence[Run]:
        """See ``RunRegistry``."""
        place = owner.partition(":")[0]
        theirs = and_(runs.c.lease_owner.startswith(f"{place}:", autoescape=True), runs.c.lease_owner != owner)
        return self._interrupt(theirs, {"state_reason": reason, "fruitless_attempts": one_less()})

    def _interrupt(self, which: ColumnElement[bool], values: dict[str, Any]) -> Sequence[Run]:
        """Take active runs from their workers."""
        found = select(runs.c.run_id).where(is_active(), which)
        with reading(self._engine) as connection:  # most often there are none, and nobody need wait for a lock
            if connection.execute(found.limit(1)).first() is None:
                return []
        values = {**values, "lease_epoch": runs.c.lease_epoch + 1, "retry_at": None}
        with writing(self._engine) as connection:
            interrupted = builtins.list(connection.execute(found.with_for_update(skip_locked=True)).scalars())
            for run_id in interrupted:
                self._move(connection, run_id, RunState.INTERRUPTED, None, values)
            return [self._get(connection, run_id) for run_id in interrupted]


def _silent() -> ColumnElement[bool]:
    """The lease ran out."""
    return or_(runs.c.lease_expires_at.is_(None), runs.c.lease_expires_at < database_now())


def _after(seconds: float) -> ColumnElement[int]:
    """That many seconds from now, by the database's clock."""
    return database_now() + int(seconds * 1e6)
