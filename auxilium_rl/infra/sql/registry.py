"""``SqlRunRegistry``: the ``RunRegistry`` on any database that SQLAlchemy speaks to."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any

from sqlalchemy import Connection, Engine, and_, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from auxilium_rl.core.dto import Checkpoint, EnvironmentSpec, Run, RunSpec
from auxilium_rl.core.errors import IdempotencyConflict, QueueFull, QuotaExceeded
from auxilium_rl.core.states import TERMINAL, RunState
from auxilium_rl.infra.sql.database import put_row, reading, writing
from auxilium_rl.infra.sql.lock_holder import lock_holder
from auxilium_rl.infra.sql.rows import checkpoint_row
from auxilium_rl.infra.sql.run_rows import held_by, sha256_of_text
from auxilium_rl.infra.sql.tables import admission, checkpoints, health_probe, negotiated_specs, runs
from auxilium_rl.infra.sql.wishes import RunWishes

__all__ = ["SqlRunRegistry"]


class SqlRunRegistry(RunWishes):
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
        values = {"experiment_id": experiment_id, "spec": json.dumps(asdict(spec)), "updated_at": self._now()}
        put_row(self._engine, negotiated_specs, {"experiment_digest": sha256_of_text(experiment_id)}, values)

    def negotiated(self, experiment_id: str) -> EnvironmentSpec | None:
        """See ``RunRegistry``."""
        statement = select(negotiated_specs.c.spec).where(
            negotiated_specs.c.experiment_digest == sha256_of_text(experiment_id)
        )
        with reading(self._engine) as connection:
            stored = connection.execute(statement).scalar()
        if stored is None:
            return None
        data = json.loads(stored)
        return EnvironmentSpec(**{**data, "observation_feature_names": tuple(data["observation_feature_names"])})

    # -- taking runs in

    def create(
        self,
        run_id: str,
        spec: RunSpec,
        *,
        idempotency_key: str = "",
        request_digest: str = "",
        close_address: str = "",
        max_queued: int = 0,
        max_unfinished: int = 0,
        timesteps_done: int = 0,
    ) -> Run:
        """See ``RunRegistry``."""
        key = idempotency_key.encode() or None
        with reading(self._engine) as connection:  # a refusal waits for nobody's lock
            if _run_with_key(connection, key) is None:
                _admit(connection, spec.experiment_id, max_queued, max_unfinished)
        try:
            with writing(self._engine) as connection:
                known = _run_with_key(connection, key)
                if known is None:
                    connection.execute(select(admission.c.id).with_for_update())  # two servers must not both say yes
                    _admit(connection, spec.experiment_id, max_queued, max_unfinished)
                    row = self._new_row(run_id, spec, key, request_digest)
                    connection.execute(insert(runs).values(**row, timesteps_done=timesteps_done))
                    gyms = spec.environment.gym_ids if close_address else ()
                    self._insert_closes(connection, run_id, close_address, gyms, due_at=None)
                    for address, names in _evaluation_gyms(spec):
                        self._insert_closes(connection, run_id, address, names, due_at=None)
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
            "parent_run_id": spec.parent.run_id if spec.parent else "",
            "output_path_digest": sha256_of_text(spec.model_output_path) if spec.model_output_path else "",
            "created_at": now,
            "updated_at": now,
        }

    # -- checkpoints

    def add_checkpoint(self, checkpoint: Checkpoint, epoch: int, forget: Collection[int] = ()) -> bool:
        """See ``RunRegistry``."""
        with writing(self._engine) as connection:
            mine = update(runs).where(held_by(checkpoint.run_id, epoch))
            values: dict[str, Any] = {"updated_at": self._now()}
            if checkpoint.kind != "initial":
                values["fruitless_attempts"] = 0
            if connection.execute(mine.values(**values)).rowcount != 1:
                return False
            behind = runs.c.timesteps_done < checkpoint.timesteps
            connection.execute(mine.where(behind).values(timesteps_done=checkpoint.timesteps))
            gone = [checkpoint.timesteps, *forget]
            theirs = and_(checkpoints.c.run_id == checkpoint.run_id, checkpoints.c.timesteps.in_(gone))
            connection.execute(delete(checkpoints).where(theirs))
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

    # -- health

    def probe(self, patience: float = 30.0) -> None:
        """See ``RunRegistry``."""
        put_row(self._engine, health_probe, {"id": 1}, {"probed_at": self._now()}, patience)

    def lock_holder(self) -> int | None:
        """See ``RunRegistry``."""
        return lock_holder(self._engine)


def _evaluation_gyms(spec: RunSpec) -> list[tuple[str, tuple[str, ...]]]:
    """Address and gym ids of the environments that a run is evaluated on, where they are owed a Close."""
    source = spec.evaluation.environment if spec.evaluation else None
    if source is None or not source.gym_ids or not source.uri.startswith("grpc://"):
        return []
    return [(source.uri.removeprefix("grpc://"), source.gym_ids)]


def _run_with_key(connection: Connection, key: bytes | None) -> Any:
    if key is None:
        return None
    return connection.execute(
        select(runs.c.run_id, runs.c.request_digest).where(runs.c.idempotency_key == key)
    ).one_or_none()


def _admit(connection: Connection, experiment_id: str, max_queued: int, max_unfinished: int) -> None:
    """Raises QueueFull or QuotaExceeded."""
    count = select(func.count()).select_from(runs)
    queued = count.where(runs.c.state == RunState.QUEUED.value)
    if max_queued and connection.execute(queued).scalar_one() >= max_queued:
        raise QueueFull(f"{max_queued} runs wait already; MAX_QUEUED_RUNS bounds them")
    if not max_unfinished:
        return
    theirs = count.where(
        runs.c.experiment_id == experiment_id, runs.c.state.not_in([state.value for state in TERMINAL])
    )
    if connection.execute(theirs).scalar_one() >= max_unfinished:
        raise QuotaExceeded(
            f"{max_unfinished} runs of experiment '{experiment_id:.80}' have not ended; "
            "MAX_UNFINISHED_RUNS_PER_EXPERIMENT bounds them",
            f"experiment:{experiment_id:.80}",
        )
