"""The replay buffer of a run, if it has one, beside its checkpoints. Only workers import this."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm

from auxilium_rl.core.dto import Checkpoint
from auxilium_rl.core.experience.sharded import local_replay
from auxilium_rl.core.ports import ModelStore
from auxilium_rl.core.replay_log import ReplayLog, parts_of
from auxilium_rl.core.resuming import REPLAY_FILE, replay_of

__all__ = ["ReplayKeeper"]


class ReplayKeeper:
    """Writes what is new with every checkpoint, and removes what no checkpoint needs any more."""

    def __init__(self, store: ModelStore, run_id: str) -> None:
        self._store, self._run_id = store, run_id
        self._log: ReplayLog | None = None
        self._needed: dict[int, dict[str, Any]] = {}

    def begin(self, model: BaseAlgorithm) -> None:
        """Follow the buffer of a model, none of which is on disk."""
        buffer = local_replay(model)
        if buffer is not None:
            rows = buffer.buffer_size if buffer.full else buffer.pos
            self._log = ReplayLog(self._store, self._run_id, buffer, timesteps=model.num_timesteps, rows=rows)

    def go_on(self, log: ReplayLog | None, kept: Sequence[Checkpoint]) -> None:
        """Follow a buffer that was read back; ``kept`` are the checkpoints whose parts must stay."""
        self._log = log
        if log is not None and log.run_id == self._run_id:
            earlier = [checkpoint for checkpoint in kept if checkpoint.timesteps]
            self._needed = {checkpoint.timesteps: replay_of(checkpoint, self._store) for checkpoint in earlier}

    def mark(self, timesteps: int) -> Callable[[Path], None] | None:
        """What writes the rows that are new now, and into a checkpoint's folder which parts it needs; None: there is no
        buffer. It may be called later, until the learner has added as many rows as the buffer has places for others.
        """
        log = self._log
        if log is None:
            return None
        rows = log.rows_at(timesteps)

        def write(folder: Path) -> None:
            kept = self._needed[timesteps] = log.save_to(rows)
            (folder / REPLAY_FILE).write_text(json.dumps(kept))

        return write

    def stays_untouched(self, timesteps: int) -> bool:
        """Whether the next ``timesteps`` (and the rollout in which they end) leave alone the rows that are not written
        yet.
        """
        return self._log is None or self._log.room() > 2 * timesteps

    def forget_all_but(self, kept: Sequence[Checkpoint]) -> None:
        """Remove the parts that none of these checkpoints needs."""
        if self._log is not None:
            staying = {checkpoint.timesteps for checkpoint in kept}
            self._needed = {timesteps: one for timesteps, one in self._needed.items() if timesteps in staying}
            self._store.keep_parts(self._run_id, parts_of(self._needed.values()))
