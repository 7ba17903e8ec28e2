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
from auxilium_rl.core.experience.sharded import local_replay
from auxilium_rl.core.ports import ModelStore, RunRegistry
from auxilium_rl.core.replay_log import ReplayLog
from auxilium_rl.core.transplant import move_experience
from auxilium_rl.wire.trees import InvalidTree, unpack

__all__ = ["LEARNER_FILE", "REPLAY_FILE", "Resumption", "beginning_of", "replay_of"]

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

    def put_back(self, model: BaseAlgorithm, store: ModelStore, run_id: str) -> ReplayLog | None:
        """Give a new model all that this checkpoint knows but the moment; gives the log of its replay buffer.

        Args:
            run_id: of the run that goes on; it keeps a replay buffer of its own, also when the checkpoint is another's.

        Raises:
            ModelCorrupt: the checkpoint is of another algorithm or shape, or a part of the buffer is damaged.
        """
        try:
            learner_state.read_parameters(model, self.model_zip)
            learner_state.put_back_knowledge(model, self.state)
        except (KeyError, ValueError, RuntimeError) as error:
            raise ModelCorrupt(f"{self.checkpoint.path} does not fit this run: {error}") from error
        buffer = local_replay(model)
        if self.replay is None or buffer is None:
            return None
        return self._restored(store, buffer, model.num_timesteps, run_id)

    def put_weights(self, model: BaseAlgorithm) -> None:
        """Give a new model the weights and the normalisation of this checkpoint, nothing else. Raises ModelCorrupt."""
        try:
            learner_state.read_weights(model, self.model_zip)
            learner_state.put_back_normalisation(model, self.state)
        except (KeyError, ValueError, RuntimeError) as error:
            raise ModelCorrupt(f"the weights of {self.checkpoint.path} do not fit this run: {error}") from error

    def _restored(self, store: ModelStore, buffer: ReplayBuffer, timesteps: int, run_id: str) -> ReplayLog:
        kept, source = self.replay, self.checkpoint.run_id
        assert kept is not None
        if kept["lanes"] == buffer.n_envs and kept["size"] == buffer.buffer_size:
            log = ReplayLog.restored(store, source, buffer, kept, timesteps)
            if source != run_id:  # none of its rows is among this run's own parts
                log = ReplayLog(store, run_id, buffer, timesteps=timesteps, rows=int(kept["rows"]))
            return log
        before = type(buffer)(
            kept["size"] * kept["lanes"], buffer.observation_space, buffer.action_space, "cpu", n_envs=kept["lanes"]
        )
        ReplayLog.restored(store, source, before, kept, timesteps)
        move_experience(before, buffer)
        rows = buffer.buffer_size if buffer.full else buffer.pos
        return ReplayLog(store, run_id, buffer, timesteps=timesteps, rows=rows)


def beginning_of(run: Run, store: ModelStore, registry: RunRegistry) -> Resumption | None:
    """Where a run goes on: its own newest checkpoint, or else its parent's; None: it begins from nothing.

    Raises:
        ModelCorrupt: every checkpoint is damaged; to begin again would throw away what was acknowledged.
        RunNotFound: the parent is gone.
        StoreUnavailable.
    """
    own = _newest_whole(run, store, registry)
    parent = run.spec.parent
    if own is not None or parent is None or parent.kind == "repeat":
        return own
    weights_do = parent.kind == "clone"
    try:
        return _newest_whole(registry.get(parent.run_id), store, registry, weights_do=weights_do)
    except ModelCorrupt:  # the parent may be training, and have replaced what was read
        return _newest_whole(registry.get(parent.run_id), store, registry, weights_do=weights_do)


def _newest_whole(run: Run, store: ModelStore, registry: RunRegistry, *, weights_do: bool = False) -> Resumption | None:
    """The newest checkpoint of a run that can be gone on from; None: the run has made none.

    Damaged ones are marked and reported.

    Args:
        weights_do: the initial checkpoint will do as well, for nothing but weights is wanted.

    Raises:
        ModelCorrupt: every checkpoint is damaged; to begin again would throw away what was acknowledged.
        StoreUnavailable.
    """
    tried = 0
    for checkpoint in reversed(run.checkpoints):
        if checkpoint.timesteps == 0 and not weights_do:  # nothing was learned; to begin again comes to the same
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
    if not checkpoint.timesteps:
        return Resumption(checkpoint, store.read(checkpoint, "model.zip"), {"normalisation": {}}, None)
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
