"""Between rows and the domain's values."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from auxilium_rl.core.dto import Checkpoint, Run, RunSpec
from auxilium_rl.core.states import ACTIVE, RunState
from auxilium_rl.infra.sql.times import from_micros, to_micros

__all__ = ["checkpoint_of", "checkpoint_row", "run_of"]


def run_of(row: Any, kept: Sequence[Checkpoint], queue_position: int) -> Run:
    """A run of its row."""
    state = RunState(row.state)
    return Run(
        run_id=row.run_id,
        spec=_spec_of(row.spec),
        state=state,
        created_at=from_micros(row.created_at),
        updated_at=from_micros(row.updated_at),
        error_message=row.error_message,
        state_reason=row.state_reason,
        timesteps_done=row.timesteps_done,
        attempt=row.attempt,
        lease_epoch=row.lease_epoch,
        lease_owner=row.lease_owner,
        stop_requested=row.stop_requested,
        idempotency_key=(row.idempotency_key or b"").decode(),
        started_at=None if row.started_at is None else from_micros(row.started_at),
        finished_at=None if row.finished_at is None else from_micros(row.finished_at),
        exported_path=row.exported_path,
        log_tail=row.log_tail,
        engine=row.engine,
        steps_per_second=row.steps_per_second if state in ACTIVE else 0.0,
        queue_position=queue_position,
        checkpoints=tuple(kept),
        fruitless_attempts=row.fruitless_attempts,
        simulator_session=row.simulator_session,
        active_seconds=row.active_seconds,
    )


@lru_cache(maxsize=256)
def _spec_of(text: str) -> RunSpec:
    return RunSpec.from_json(json.loads(text))


def checkpoint_of(row: Any) -> Checkpoint:
    """A checkpoint of its row."""
    return Checkpoint(
        run_id=row.run_id,
        timesteps=row.timesteps,
        path=row.path,
        sha256=row.sha256,
        manifest_sha256=row.manifest_sha256,
        kind=row.kind,
        size=row.size,
        created_at=from_micros(row.created_at),
        corrupt=row.corrupt,
        score=row.score,
    )


def checkpoint_row(checkpoint: Checkpoint) -> dict[str, Any]:
    """The row of a checkpoint."""
    return {
        "run_id": checkpoint.run_id,
        "timesteps": checkpoint.timesteps,
        "path": checkpoint.path,
        "sha256": checkpoint.sha256,
        "manifest_sha256": checkpoint.manifest_sha256,
        "kind": checkpoint.kind,
        "size": checkpoint.size,
        "created_at": to_micros(checkpoint.created_at),
        "score": checkpoint.score,
    }
