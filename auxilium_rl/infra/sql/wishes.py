"""The part of the registry that notes what people wish of runs: stop, pause, go on, be forgotten."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, delete, func, select, update

from auxilium_rl.core.dto import Run
from auxilium_rl.core.errors import RunEnded, RunInUse, RunNotEnded
from auxilium_rl.core.states import ACTIVE, TERMINAL, RunState
from auxilium_rl.infra.sql.database import writing
from auxilium_rl.infra.sql.leases import RunLeases
from auxilium_rl.infra.sql.policy_rows import tick
from auxilium_rl.infra.sql.tables import checkpoints, gym_closes, metrics, runs

__all__ = ["RunWishes"]


class RunWishes(RunLeases):
    """Wishes: carried out at once where no worker has the run, else heard by its worker."""

    def request_stop(self, run_id: str, *, immediate: bool, exported_path: str = "") -> Run:
        """See ``RunRegistry``."""
        with writing(self._engine) as connection:
            run = self._locked(connection, run_id)
            if run.state in ACTIVE:
                self._wish(connection, run_id, "immediate" if immediate else "graceful")
            elif run.state not in TERMINAL:
                message = f"stopped on request at {run.timesteps_done} of {run.spec.total_timesteps} timesteps"
                values = {"error_message": message, "state_reason": "", "exported_path": exported_path}
                self._move(connection, run_id, RunState.STOPPED, None, values)
            return self._get(connection, run_id)

    def request_pause(self, run_id: str) -> Run:
        """See ``RunRegistry``."""
        with writing(self._engine) as connection:
            run = self._locked(connection, run_id)
            if run.state in TERMINAL or run.stop_requested in {"graceful", "immediate"}:
                how = f"has ended {run.state}" if run.state in TERMINAL else "is being stopped"
                raise RunEnded(f"run '{run_id}' {how}; it cannot be paused")
            self._wish(connection, run_id, "pause")
            if run.state not in ACTIVE and run.state is not RunState.PAUSED:
                self._move(connection, run_id, RunState.PAUSED, None, {"state_reason": "paused on request"})
            return self._get(connection, run_id)

    def resume(self, run_id: str) -> Run:
        """See ``RunRegistry``."""
        with writing(self._engine) as connection:
            run = self._locked(connection, run_id)
            if run.state in TERMINAL:
                raise RunEnded(f"run '{run_id}' has ended {run.state}; retry, extend or clone it")
            if run.stop_requested == "pause":
                self._wish(connection, run_id, "")
            if run.state is RunState.PAUSED:
                values: dict[str, Any] = {"state_reason": "", "fruitless_attempts": 0, "retry_at": None}
                self._move(connection, run_id, RunState.QUEUED, None, values)
            return self._get(connection, run_id)

    def delete(self, run_id: str) -> Run:
        """See ``RunRegistry``."""
        with writing(self._engine) as connection:
            run = self._locked(connection, run_id)
            if run.state not in TERMINAL:
                raise RunNotEnded(f"run '{run_id}' is {run.state}; stop it before it is deleted")
            needed_by = connection.execute(_unfinished_children(run_id)).scalar()
            if needed_by is not None:
                raise RunInUse(f"run '{needed_by}' was made of run '{run_id}' and has not ended")
            for table in (metrics, checkpoints):
                connection.execute(delete(table).where(table.c.run_id == run_id))
            connection.execute(delete(gym_closes).where(gym_closes.c.run_id == run_id, gym_closes.c.outcome != ""))
            connection.execute(delete(runs).where(runs.c.run_id == run_id))
            tick(connection)  # servers that act with it from memory
            return run

    def _locked(self, connection: Connection, run_id: str) -> Run:
        """A run that nobody else changes until the end of the transaction. Raises RunNotFound."""
        connection.execute(select(runs.c.number).where(runs.c.run_id == run_id).with_for_update())
        return self._get(connection, run_id)

    def _wish(self, connection: Connection, run_id: str, wish: str) -> None:
        connection.execute(
            update(runs).where(runs.c.run_id == run_id).values(stop_requested=wish, updated_at=self._now())
        )


def _unfinished_children(run_id: str) -> Any:
    ended = [state.value for state in TERMINAL]
    return select(func.min(runs.c.run_id)).where(runs.c.parent_run_id == run_id, runs.c.state.not_in(ended))
