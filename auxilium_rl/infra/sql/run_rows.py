"""The part of the registry that finds runs and moves them along the edges of their states."""

from __future__ import annotations

import builtins
import hashlib
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, bindparam, case, cast, func, select, update
from sqlalchemy import Double as SqlDouble

from auxilium_rl.core.dto import Checkpoint, Run, RunPage
from auxilium_rl.core.errors import InvalidRequest, RunNotFound
from auxilium_rl.core.states import ACTIVE, TERMINAL, RunState, sources_of
from auxilium_rl.infra.sql.closes import GymCloseRows
from auxilium_rl.infra.sql.database import reading, writing
from auxilium_rl.infra.sql.rows import checkpoint_of, run_of
from auxilium_rl.infra.sql.tables import checkpoints, runs

__all__ = ["RunRows", "held_by", "is_active", "sha256_of_text"]

_BY_ID = select(runs).where(runs.c.run_id == bindparam("run_id"))
_CHECKPOINTS = select(checkpoints).where(checkpoints.c.run_id == bindparam("run_id")).order_by(checkpoints.c.timesteps)
_POSITION = (
    select(func.count())
    .select_from(runs)
    .where(runs.c.state == RunState.QUEUED.value, runs.c.number <= bindparam("number"))
)


class RunRows(GymCloseRows):
    """Runs as rows."""

    def get(self, run_id: str) -> Run:
        """See ``RunRegistry``."""
        with reading(self._engine) as connection:
            return self._get(connection, run_id)

    def _get(self, connection: Connection, run_id: str) -> Run:
        row = connection.execute(_BY_ID, {"run_id": run_id}).one_or_none()
        if row is None:
            raise RunNotFound(run_id)
        kept = [checkpoint_of(c) for c in connection.execute(_CHECKPOINTS, {"run_id": run_id})]
        position = 0
        if row.state == RunState.QUEUED.value:
            position = connection.execute(_POSITION, {"number": row.number}).scalar_one()
        return run_of(row, kept, position)

    def list(
        self,
        *,
        page_size: int = 50,
        page_token: str = "",
        states: Sequence[RunState] = (),
        experiment_id: str = "",
        algorithm: str = "",
        parent_run_id: str = "",
    ) -> RunPage:
        """See ``RunRegistry``."""
        statement = select(runs).order_by(runs.c.number.desc()).limit(page_size + 1)
        if page_token:
            statement = statement.where(runs.c.number < _number_of(page_token))
        if states:
            statement = statement.where(runs.c.state.in_([state.value for state in states]))
        if experiment_id:
            statement = statement.where(runs.c.experiment_id == experiment_id)
        if algorithm:
            statement = statement.where(runs.c.algorithm == algorithm)
        if parent_run_id:
            statement = statement.where(runs.c.parent_run_id == parent_run_id)
        return self._page(statement, page_size)

    def _page(self, statement: Select[Any], page_size: int) -> RunPage:
        with reading(self._engine) as connection:
            rows = connection.execute(statement).all()
            ids = [row.run_id for row in rows[:page_size]]
            kept: dict[str, builtins.list[Checkpoint]] = {run_id: [] for run_id in ids}
            of_page = select(checkpoints).where(checkpoints.c.run_id.in_(ids)).order_by(checkpoints.c.timesteps)
            for row in connection.execute(of_page) if ids else ():
                kept[row.run_id].append(checkpoint_of(row))
            position = _positions(connection, rows[:page_size])
        more = len(rows) > page_size
        token = str(rows[page_size - 1].number) if more else ""
        found = tuple(run_of(row, kept[row.run_id], position.get(row.run_id, 0)) for row in rows[:page_size])
        return RunPage(found, token)

    def find_by_output_path(self, model_output_path: str) -> Run | None:
        """See ``RunRegistry``."""
        statement = (
            select(runs.c.run_id)
            .where(runs.c.output_path_digest == sha256_of_text(model_output_path), runs.c.exported_path != "")
            .order_by(runs.c.finished_at.desc(), runs.c.number.desc())
            .limit(1)
        )
        with reading(self._engine) as connection:
            run_id = connection.execute(statement).scalar()
            return None if run_id is None else self._get(connection, run_id)

    def transition(
        self,
        run_id: str,
        target: RunState,
        *,
        epoch: int | None = None,
        reason: str = "",
        error_message: str = "",
        log_tail: str = "",
        exported_path: str = "",
        timesteps_done: int | None = None,
        retry_in: float = 0.0,
        forgiven: bool = False,
    ) -> bool:
        """See ``RunRegistry``."""
        values: dict[str, Any] = {"state_reason": reason, "error_message": error_message}
        if log_tail:
            values["log_tail"] = log_tail
        if exported_path:
            values["exported_path"] = exported_path
        if timesteps_done is not None:
            values["timesteps_done"] = timesteps_done
        if target is RunState.INTERRUPTED:
            values["retry_at"] = self._now() + int(retry_in * 1e6)
        if forgiven:
            values["fruitless_attempts"] = one_less()
        with writing(self._engine) as connection:
            return self._move(connection, run_id, target, epoch, values)

    def _move(
        self, connection: Connection, run_id: str, target: RunState, epoch: int | None, values: dict[str, Any]
    ) -> bool:
        """The compare-and-set that every change of state goes through."""
        now = self._now()
        values = {**values, "state": target.value, "updated_at": now}
        if target is RunState.RUNNING:
            values["started_at"] = func.coalesce(runs.c.started_at, now)
        if target not in ACTIVE:
            spent = cast(now - runs.c.attempt_started_at, SqlDouble) / 1e6
            total = case(
                (runs.c.attempt_started_at.is_(None), runs.c.active_seconds), else_=runs.c.active_seconds + spent
            )
            values |= {"lease_owner": "", "lease_expires_at": None, "steps_per_second": 0.0}
            values |= {"active_seconds": total, "attempt_started_at": None}
        if target in TERMINAL:
            values["finished_at"] = now
        statement = update(runs).where(
            runs.c.run_id == run_id, runs.c.state.in_([state.value for state in sources_of(target)])
        )
        if target is RunState.PAUSED:  # nobody took the wish back meanwhile
            statement = statement.where(runs.c.stop_requested == "pause")
        if epoch is not None:
            statement = statement.where(runs.c.lease_epoch == epoch)
        if connection.execute(statement.values(**values)).rowcount != 1:
            return False
        if target in TERMINAL:
            self._make_due(connection, run_id)
        return True


def is_active() -> ColumnElement[bool]:
    """A worker has the run."""
    return runs.c.state.in_([state.value for state in ACTIVE])


def held_by(run_id: str, epoch: int) -> ColumnElement[bool]:
    """The run is active, and belongs to the worker of this epoch."""
    return and_(runs.c.run_id == run_id, runs.c.lease_epoch == epoch, is_active())


def one_less() -> ColumnElement[int]:
    """The attempts without a checkpoint, when the last one is not held against the run."""
    return case((runs.c.fruitless_attempts > 0, runs.c.fruitless_attempts - 1), else_=0)


def sha256_of_text(value: str) -> str:
    """Sha256 of a text, for columns that are looked up by it."""
    return hashlib.sha256(value.encode()).hexdigest()


def _positions(connection: Connection, rows: Sequence[Any]) -> dict[str, int]:
    """The place in the queue of each that is QUEUED: one count for the first, then those after it in order."""
    queued = sorted((row.number, row.run_id) for row in rows if row.state == RunState.QUEUED.value)
    if not queued:
        return {}
    before: int = connection.execute(_POSITION, {"number": queued[0][0] - 1}).scalar_one()
    between = runs.c.number.between(queued[0][0], queued[-1][0])
    numbers = select(runs.c.number).where(runs.c.state == RunState.QUEUED.value, between).order_by(runs.c.number)
    place = {number: before + n for n, number in enumerate(connection.execute(numbers).scalars(), start=1)}
    return {run_id: place[number] for number, run_id in queued if number in place}


def _number_of(token: str) -> int:
    if not (token.isascii() and token.isdigit() and len(token) < 19):
        raise InvalidRequest.of("page_token", f"{token!r:.80} given; the next_page_token of an answer is accepted")
    return int(token)
