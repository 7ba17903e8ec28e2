"""Where an interrupted run goes on: its newest checkpoint that is whole. Only workers import this."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import structlog
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer

from auxilium_rl.core import learner_state
from auxilium_rl.core.dto import Checkpoint, Run
from auxilium_rl.core.errors import ModelCorrupt
from auxilium_rl.core.ports import ModelStore, RunRegistry
from auxilium_rl.core.replay_log import ReplayLog
from auxilium_rl.core.transplant import move_experience
from auxilium_rl.wire.trees import InvalidTree, unpack

__all__ = ["LEARNER_FILE", "REPLAY_FILE", "Resumption", "newest_whole", "replay_of"]

LEARNER_FILE, REPLAY_FILE = "learner.npz", "replay.json"
_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Resumption:
    """What a checkpoint holds, read and verified.

    Attributes:
        replay: the parts of its replay buffer; None: its algorithm has none.
    """

    checkpoint: Checkpoint
    model_zip: bytes
    state: dict[str, Any]
    replay: dict[str, Any] | None

    def put_back(self, model: BaseAlgorithm, store: ModelStore) -> ReplayLog | None:
        """Give a new model all that this checkpoint knows but the moment; gives the log of its replay buffer.

        Raises:
            ModelCorrupt: the checkpoint is of another algorithm or shape, or a part of the buffer is damaged.
        """
        try:
            learner_state.read_parameters(model, self.model_zip)
            learner_state.put_back_knowledge(model, self.state)
        except (KeyError, ValueError, RuntimeError) as error:
            raise ModelCorrupt(f"{self.checkpoint.path} does not fit this run: {error}") from error
        buffer: Any = getattr(model, "replay_buffer", None)
        if self.replay is None or buffer is None:
            return None
        return self._restored(store, buffer, model.num_timesteps)

    def _restored(self, store: ModelStore, buffer: ReplayBuffer, timesteps: int) -> ReplayLog:
        kept, run_id = self.replay, self.checkpoint.run_id
        assert kept is not None
        if kept["lanes"] == buffer.n_envs:
            return ReplayLog.restored(store, run_id, buffer, kept, timesteps)
        before = type(buffer)(
            kept["size"] * kept["lanes"], buffer.observation_space, buffer.action_space, "cpu", n_envs=kept["lanes"]
        )
        ReplayLog.restored(store, run_id, before, kept, timesteps)
        move_experience(before, buffer)
        rows = buffer.buffer_size if buffer.full else buffer.pos
        return ReplayLog(store, run_id, buffer, timesteps=timesteps, rows=rows)


def newest_whole(run: Run, store: ModelStore, registry: RunRegistry) -> Resumption | None:
    """The newest checkpoint of a run that can be gone on from; None: the run has made none, and begins.

    Damaged ones are marked and reported.

    Raises:
        ModelCorrupt: every checkpoint is damaged; to begin again would throw away what was acknowledged.
        StoreUnavailable.
    """
    tried = 0
    for checkpoint in reversed(run.checkpoints):
        if checkpoint.timesteps == 0:  # nothing was learned yet; to begin again comes to the same
            continue
        if checkpoint.corrupt:
            tried += 1
            continue
        try:
            return _read(checkpoint, store)
        except ModelCorrupt as damaged:
            _log.error("checkpoint_corrupt", timesteps=checkpoint.timesteps, reason=damaged.message)
            registry.mark_corrupt(run.run_id, checkpoint.timesteps, damaged.message)
            tried += 1
    if tried:
        raise ModelCorrupt(f"none of the {tried} checkpoints of run '{run.run_id}' can be read; see its log")
    return None


def _read(checkpoint: Checkpoint, store: ModelStore) -> Resumption:
    """Everything of a checkpoint, its replay buffer's parts included. Raises ModelCorrupt."""
    try:
        state = unpack(store.read(checkpoint, LEARNER_FILE))
    except InvalidTree as error:
        raise ModelCorrupt(f"{checkpoint.path}/{LEARNER_FILE}: {error}") from error
    replay = replay_of(checkpoint, store) if state["replay"] else None
    for part in replay["parts"] if replay else ():
        store.read_part(checkpoint.run_id, part["name"], part["sha256"])
    return Resumption(checkpoint, store.read(checkpoint, "model.zip"), state, replay)


def replay_of(checkpoint: Checkpoint, store: ModelStore) -> dict[str, Any]:
    """What a checkpoint remembers of its replay buffer. Raises ModelCorrupt, StoreUnavailable."""
    kept: dict[str, Any] = json.loads(store.read(checkpoint, REPLAY_FILE))
    return kept
