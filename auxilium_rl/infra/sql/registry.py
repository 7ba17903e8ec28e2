"""``SqlRunRegistry``: the ``RunRegistry`` on any database that SQLAlchemy speaks to."""

from __future__ import annotations

import builtins
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Select,
    and_,
    bindparam,
    case,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

from auxilium_rl.core.dto import Checkpoint, EnvironmentSpec, Run, RunPage, RunSpec
from auxilium_rl.core.errors import IdempotencyConflict, InvalidRequest, QueueFull, RunNotFound
from auxilium_rl.core.states import ACTIVE, TERMINAL, RunState, sources_of
from auxilium_rl.infra.sql.clock import database_now
from auxilium_rl.infra.sql.closes import GymCloseRows
from auxilium_rl.infra.sql.database import reading, writing
from auxilium_rl.infra.sql.rows import checkpoint_of, checkpoint_row, run_of
from auxilium_rl.infra.sql.tables import admission, checkpoints, health_probe, negotiated_specs, runs

__all__ = ["SqlRunRegistry"]

_BY_ID = select(runs).where(runs.c.run_id == bindparam("run_id"))
_CHECKPOINTS = select(checkpoints).where(checkpoints.c.run_id == bindparam("run_id")).order_by(checkpoints.c.timesteps)
_POSITION = (
    select(func.count())
    .select_from(runs)
    .where(runs.c.state == RunState.QUEUED.value, runs.c.number <= bindparam("number"))
)


class SqlRunRegistry(GymCloseRows):
    """Runs in SQL. Safe for any number of threads and processes.

    Args:
        engine: of ``open_database``.
        clock: the time; aware.
    """

    def __init__(self, engine: Engine, clock: Callable[[], datetime] = lambda: datetime.now(timezone.utc)) -> None:
        super().__init__(engine, clock)

    # -- negotiated specs

    def put_negotiated(self, experiment_id: str, spec: EnvironmentSpec) -> None:
        """See ``RunRegistry``."""
        key = _sha256(experiment_id)
        with writing(self._engine) as connection:
            connection.execute(delete(negotiated_specs).where(negotiated_specs.c.experiment_digest == key))
            connection.execute(
                insert(negotiated_specs).values(
                    experiment_digest=key,
                    experiment_id=experiment_id,
                    spec=json.dumps(asdict(spec)),
                    updated_at=self._now(),
                )
            )

    def negotiated(self, experiment_id: str) -> EnvironmentSpec | None:
        """See ``RunRegistry``."""
        statement = select(negotiated_specs.c.spec).where(
            negotiated_specs.c.experiment_digest == _sha256(experiment_id)
        )
        with reading(self._engine) as connection:
            stored = connection.execute(statement).scalar()
        if stored is None:
            return None
        data = json.loads(stored)
        return EnvironmentSpec(**{**data, "observation_feature_names": tuple(data["observation_feature_names"])})

    # -- making and finding runs

    def create(
        self,
        run_id: str,
        spec: RunSpec,
        *,
        idempotency_key: str = "",
        request_digest: str = "",
        close_address: str = "",
        max_queued: int = 0,
    ) -> Run:
        """See ``RunRegistry``."""
        key = idempotency_key.encode() or None
        try:
            with writing(self._engine) as connection:
                known = _run_with_key(connection, key)
                if known is None:
                    connection.execute(select(admission.c.id).with_for_update())  # two servers must not both say yes
                    if max_queued and _queued(connection) >= max_queued:
                        raise QueueFull(f"{max_queued} runs wait already; MAX_QUEUED_RUNS bounds them")
                    connection.execute(insert(runs).values(**self._new_row(run_id, spec, key, request_digest)))
                    gyms = spec.environment.gym_ids if close_address else ()
                    self._insert_closes(connection, run_id, close_address, gyms, due_at=None)
        except IntegrityError:
            with reading(self._engine) as connection:
                known = _run_with_key(connection, key)
        if known is not None:
            if known.request_digest != request_digest:
                raise IdempotencyConflict(
                    f"the idempotency key {idempotency_key!r:.80} belongs to run '{known.run_id}', "
                    "which was started with another request"
                )
            return self.get(known.run_id)
        return self.get(run_id)

    def _new_row(self, run_id: str, spec: RunSpec, key: bytes | None, digest: str) -> dict[str, Any]:
        now = self._now()
        return {
            "run_id": run_id,
            "experiment_id": spec.experiment_id,
            "algorithm": spec.algorithm,
            "state": RunState.QUEUED.value,
            "spec": json.dumps(spec.to_json()),
            "idempotency_key": key,
            "request_digest": digest,
            "output_path_digest": _sha256(spec.model_output_path) if spec.model_output_path else "",
            "created_at": now,
            "updated_at": now,
        }

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
        return self._page(statement, page_size)

    def _page(self, statement: Select[Any], page_size: int) -> RunPage:
        with reading(self._engine) as connection:
            rows = connection.execute(statement).all()
            ids = [row.run_id for row in rows[:page_size]]
            kept: dict[str, builtins.list[Checkpoint]] = {run_id: [] for run_id in ids}
            of_page = select(checkpoints).where(checkpoints.c.run_id.in_(ids)).order_by(checkpoints.c.timesteps)
            for row in connection.execute(of_page) if ids else ():
                kept[row.run_id].append(checkpoint_of(row))
            position = {
                row.run_id: connection.execute(_POSITION, {"number": row.number}).scalar_one()
                for row in rows[:page_size]
                if row.state == RunState.QUEUED.value
            }
        more = len(rows) > page_size
        token = str(rows[page_size - 1].number) if more else ""
        found = tuple(run_of(row, kept[row.run_id], position.get(row.run_id, 0)) for row in rows[:page_size])
        return RunPage(found, token)

    def find_by_output_path(self, model_output_path: str) -> Run | None:
        """See ``RunRegistry``."""
        statement = (
            select(runs.c.run_id)
            .where(runs.c.output_path_digest == _sha256(model_output_path), runs.c.exported_path != "")
            .order_by(runs.c.finished_at.desc(), runs.c.number.desc())
            .limit(1)
        )
        with reading(self._engine) as connection:
            run_id = connection.execute(statement).scalar()
            return None if run_id is None else self._get(connection, run_id)

    # -- a run's life

    def claim_next(self, owner: str, lease: float = 30.0) -> Run | None:
        """See ``RunRegistry``."""
        due = or_(runs.c.retry_at.is_(None), runs.c.retry_at <= self._now())
        oldest = (
            select(runs.c.run_id)
            .where(or_(runs.c.state == RunState.QUEUED.value, and_(runs.c.state == RunState.INTERRUPTED.value, due)))
            .order_by(runs.c.number)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        with writing(self._engine) as connection:
            run_id = connection.execute(oldest).scalar()
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
                    state_reason="",
                    updated_at=self._now(),
                )
            )
            return self._get(connection, run_id)

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
            values |= {"lease_owner": "", "lease_expires_at": None, "steps_per_second": 0.0}
        if target in TERMINAL:
            values["finished_at"] = now
        statement = update(runs).where(
            runs.c.run_id == run_id, runs.c.state.in_([state.value for state in sources_of(target)])
        )
        if epoch is not None:
            statement = statement.where(runs.c.lease_epoch == epoch)
        if connection.execute(statement.values(**values)).rowcount != 1:
            return False
        if target in TERMINAL:
            self._make_due(connection, run_id)
        return True

    def report(
        self, run_id: str, epoch: int, *, timesteps_done: int, steps_per_second: float, engine: str = ""
    ) -> bool:
        """See ``RunRegistry``."""
        values: dict[str, Any] = {"steps_per_second": steps_per_second, "updated_at": self._now()}
        if engine:
            values["engine"] = engine[:512]
        with writing(self._engine) as connection:
            mine = (
                update(runs)
                .where(runs.c.run_id == run_id, runs.c.lease_epoch == epoch)
                .where(runs.c.state.in_([state.value for state in ACTIVE]))
            )
            if connection.execute(mine.values(**values)).rowcount != 1:
                return False
            connection.execute(mine.where(runs.c.timesteps_done < timesteps_done).values(timesteps_done=timesteps_done))
            return True

    def request_stop(self, run_id: str, *, immediate: bool) -> Run:
        """See ``RunRegistry``."""
        with writing(self._engine) as connection:
            run = self._get(connection, run_id)
            if run.state in {RunState.QUEUED, RunState.INTERRUPTED}:
                message = f"stopped on request at {run.timesteps_done} of {run.spec.total_timesteps} timesteps"
                self._move(connection, run_id, RunState.STOPPED, None, {"error_message": message, "state_reason": ""})
            elif run.state not in TERMINAL:
                connection.execute(
                    update(runs)
                    .where(runs.c.run_id == run_id)
                    .values(stop_requested="immediate" if immediate else "graceful", updated_at=self._now())
                )
            return self._get(connection, run_id)

    def interrupt_orphans(self, owner: str, reason: str) -> Sequence[Run]:
        """See ``RunRegistry``."""
        place = owner.partition(":")[0]
        theirs = and_(runs.c.lease_owner.startswith(f"{place}:", autoescape=True), runs.c.lease_owner != owner)
        forgiven = case((runs.c.fruitless_attempts > 0, runs.c.fruitless_attempts - 1), else_=0)
        return self._interrupt(theirs, {"state_reason": reason, "fruitless_attempts": forgiven})

    def renew(self, run_id: str, epoch: int, lease: float) -> str | None:
        """See ``RunRegistry``."""
        mine = and_(
            runs.c.run_id == run_id,
            runs.c.lease_epoch == epoch,
            runs.c.state.in_([state.value for state in ACTIVE]),
        )
        with writing(self._engine) as connection:
            if connection.execute(update(runs).where(mine).values(lease_expires_at=_after(lease))).rowcount != 1:
                return None
            wish: str | None = connection.execute(select(runs.c.stop_requested).where(mine)).scalar()
            return wish

    def silent(self) -> Sequence[tuple[str, int]]:
        """See ``RunRegistry``."""
        active = runs.c.state.in_([state.value for state in ACTIVE])
        with reading(self._engine) as connection:
            found = connection.execute(select(runs.c.run_id, runs.c.lease_epoch).where(active, _silent()))
            return [(row.run_id, row.lease_epoch) for row in found]

    def expire_leases(self, reason: str) -> Sequence[Run]:
        """See ``RunRegistry``."""
        return self._interrupt(_silent(), {"state_reason": reason})

    def _interrupt(self, which: ColumnElement[bool], values: dict[str, Any]) -> Sequence[Run]:
        """Take active runs from their workers."""
        found = select(runs.c.run_id).where(runs.c.state.in_([state.value for state in ACTIVE]), which)
        with reading(self._engine) as connection:  # most often there are none, and nobody need wait for a lock
            if connection.execute(found.limit(1)).first() is None:
                return []
        values = {**values, "lease_epoch": runs.c.lease_epoch + 1, "retry_at": None}
        with writing(self._engine) as connection:
            interrupted = builtins.list(connection.execute(found.with_for_update(skip_locked=True)).scalars())
            for run_id in interrupted:
                self._move(connection, run_id, RunState.INTERRUPTED, None, values)
            return [self._get(connection, run_id) for run_id in interrupted]

    # -- checkpoints

    def add_checkpoint(self, checkpoint: Checkpoint, epoch: int) -> bool:
        """See ``RunRegistry``."""
        with writing(self._engine) as connection:
            mine = update(runs).where(
                runs.c.run_id == checkpoint.run_id,
                runs.c.lease_epoch == epoch,
                runs.c.state.in_([state.value for state in ACTIVE]),
            )
            values: dict[str, Any] = {"updated_at": self._now()}
            if checkpoint.kind != "initial":
                values["fruitless_attempts"] = 0
            if connection.execute(mine.values(**values)).rowcount != 1:
                return False
            connection.execute(_same_checkpoint(checkpoint.run_id, checkpoint.timesteps))
            connection.execute(insert(checkpoints).values(**checkpoint_row(checkpoint)))
            return True

    def mark_corrupt(self, run_id: str, timesteps: int, reason: str) -> None:
        """See ``RunRegistry``."""
        with writing(self._engine) as connection:
            connection.execute(
                update(checkpoints)
                .where(checkpoints.c.run_id == run_id, checkpoints.c.timesteps == timesteps)
                .values(corrupt=reason[:1024])
            )

    def put_simulator_session(self, run_id: str, epoch: int, session: str) -> bool:
        """See ``RunRegistry``."""
        mine = update(runs).where(runs.c.run_id == run_id, runs.c.lease_epoch == epoch)
        with writing(self._engine) as connection:
            return connection.execute(mine.values(simulator_session=session)).rowcount == 1

    def drop_checkpoint(self, run_id: str, timesteps: int) -> None:
        """See ``RunRegistry``."""
        with writing(self._engine) as connection:
            connection.execute(_same_checkpoint(run_id, timesteps))

    # -- health

    def probe(self) -> None:
        """See ``RunRegistry``."""
        with writing(self._engine) as connection:
            connection.execute(delete(health_probe).where(health_probe.c.id == 1))
            connection.execute(insert(health_probe).values(id=1, probed_at=self._now()))


def _run_with_key(connection: Connection, key: bytes | None) -> Any:
    if key is None:
        return None
    return connection.execute(
        select(runs.c.run_id, runs.c.request_digest).where(runs.c.idempotency_key == key)
    ).one_or_none()


def _queued(connection: Connection) -> int:
    return connection.execute(
        select(func.count()).select_from(runs).where(runs.c.state == RunState.QUEUED.value)
    ).scalar_one()


def _same_checkpoint(run_id: str, timesteps: int) -> Any:
    return delete(checkpoints).where(checkpoints.c.run_id == run_id, checkpoints.c.timesteps == timesteps)


def _number_of(token: str) -> int:
    if not (token.isascii() and token.isdigit() and len(token) < 19):
        raise InvalidRequest.of("page_token", f"{token!r:.80} given; the next_page_token of an answer is accepted")
    return int(token)


def _silent() -> ColumnElement[bool]:
    """The lease ran out."""
    return or_(runs.c.lease_expires_at.is_(None), runs.c.lease_expires_at < database_now())


def _after(seconds: float) -> ColumnElement[int]:
    """That many seconds from now, by the database's clock."""
    return database_now() + int(seconds * 1e6)


def _sha256(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()
