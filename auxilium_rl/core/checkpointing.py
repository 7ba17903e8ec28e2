"""Checkpoints of one run: taken where a rollout begins, written while learning goes on. Only workers import this.

What decides how learning goes on is turned into bytes at once, which takes milliseconds; disks and databases are waited
for by a thread. A replay buffer's new rows are not even copied: nobody touches them before the next checkpoint, which
waits for the one before.
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import structlog
from stable_baselines3.common.base_class import BaseAlgorithm

from auxilium_rl.core.artifact import PolicyArtifact
from auxilium_rl.core.dto import Checkpoint, Run
from auxilium_rl.core.endurance import Endurance
from auxilium_rl.core.errors import LeaseLost, StoreUnavailable
from auxilium_rl.core.failpoints import reach
from auxilium_rl.core.learner_state import captured
from auxilium_rl.core.policies import PolicyVersion
from auxilium_rl.core.ports import ModelStore, RunRegistry
from auxilium_rl.core.publishing import Publisher, policy_of
from auxilium_rl.core.replay_keeper import ReplayKeeper
from auxilium_rl.core.resuming import LEARNER_FILE, Resumption
from auxilium_rl.core.wrappers import normalisation_json
from auxilium_rl.wire.trees import pack

__all__ = ["Checkpointer", "outlived"]

_log = structlog.get_logger(__name__)
_LIVE_VERSIONS = 16
"""Of those that are no checkpoint's, so many stay."""


class _Taken:
    """A checkpoint whose bytes are known and not yet all on the disk. ``write`` may be called until it works.

    Attributes:
        write_replay: puts the new rows of the replay buffer into the store, and what the checkpoint needs of them into
            its folder.
    """

    def __init__(self, kind: str, timesteps: int, metrics: dict[str, float], files: dict[str, bytes]) -> None:
        self.kind, self.timesteps, self.metrics, self.files = kind, timesteps, metrics, files
        self.score = metrics.get("rollout/ep_rew_mean")
        self.write_replay: Callable[[Path], None] | None = None
        self.stored: Checkpoint | None = None


class Checkpointer:
    """Takes the checkpoints of a run, and knows which there are.

    Attributes:
        published: the newest version that was made of one.

    Args:
        write_metrics: called before a checkpoint's row is written: a run that goes on from it logs only what comes
            later.
        publisher: makes versions of them.
        keep: how many of the newest checkpoints stay.
        keep_best: how many of those with the best score stay as well.
    """

    def __init__(
        self,
        run: Run,
        registry: RunRegistry,
        store: ModelStore,
        endurance: Endurance,
        write_metrics: Callable[[], None],
        *,
        publisher: Publisher,
        keep: int,
        keep_best: int,
    ) -> None:
        self._run, self._registry, self._store = run, registry, store
        self._endurance, self._write_metrics = endurance, write_metrics
        self._publisher, self._keep, self._keep_best = publisher, keep, keep_best
        self._kept: list[Checkpoint] = [kept for kept in run.checkpoints if not kept.corrupt]
        self._replay = ReplayKeeper(store, run.run_id)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: tuple[_Taken, Future[None]] | None = None
        self._wanted: set[int] = set()
        self._live: list[PolicyVersion] = []
        self.published: PolicyVersion | None = None

    @property
    def newest(self) -> Checkpoint:
        """The newest that is recorded."""
        return self._kept[-1]

    def begin(self, model: BaseAlgorithm, resumption: Resumption | None) -> None:
        """Give a new model all that a checkpoint knows but the moment, and follow its replay buffer."""
        if resumption is None:
            self._replay.begin(model)
        else:
            self._replay.go_on(resumption.put_back(model, self._store, self._run.run_id), self._kept)

    def follow(self, model: BaseAlgorithm, artifact: PolicyArtifact) -> None:
        """Take checkpoints of this model."""
        self._model, self._artifact = model, artifact

    def save(self, kind: str) -> None:
        """Take a checkpoint of now; when this returns, a ``periodic`` one may still be being written.

        Raises:
            LeaseLost: the run belongs to another worker; nothing more was written.
            EndedEarly: on ``stop_now`` or ``interrupt``, while the store could not be written.
        """
        begun = time.perf_counter()
        self.finish()
        taken = self._take(kind)
        beside = kind == "periodic" and self._replay.stays_untouched(self._run.spec.checkpoint_freq)
        if beside:
            self._writing = taken, self._thread.submit(self._write, taken)
        else:
            self._endurance.until_it_works(lambda: self._write(taken))
        stood = round(time.perf_counter() - begun, 4)
        _log.info("checkpoint_taken", kind=kind, timesteps=taken.timesteps, seconds=stood, written=not beside)

    def save_version(self) -> PolicyVersion:
        """Take a checkpoint of now, and make a version of it. Raises as ``save`` does."""
        self._wanted.add(self._model.num_timesteps)
        self.save("periodic")
        self.finish()
        assert self.published is not None
        return self.published

    def publish_now(self) -> PolicyVersion:
        """Make a version of now, without a checkpoint. Raises as ``save`` does."""
        self.finish()
        if self.published is not None and self.published.timesteps == self._model.num_timesteps:
            return self.published  # a checkpoint of now is one, and stays
        run, epoch = self._run, self._run.lease_epoch
        metrics, files = self._described()
        now = datetime.now(timezone.utc)
        moment = Checkpoint(run.run_id, self._model.num_timesteps, "", "", "", "live", 0, now)
        self.published = self._endurance.until_it_works(
            lambda: self._publisher.publish(run, moment, policy_of(run), metrics, files, epoch)
        )
        self._live.append(self.published)
        if len(self._live) > _LIVE_VERSIONS:
            self._publisher.withdraw(self._live.pop(0))
        return self.published

    def finish(self) -> None:
        """Wait until what was taken is written. Raises as ``save`` does."""
        if self._writing is None:
            return
        taken, future = self._writing
        try:
            future.result()
        except StoreUnavailable:
            self._endurance.until_it_works(lambda: self._write(taken))
        finally:
            self._writing = None

    def settle(self) -> None:
        """Before this worker leaves, however it does: let what is being written be written, if that works."""
        if self._writing is not None and (error := self._writing[1].exception()) is not None:
            _log.warning("checkpoint_not_written", timesteps=self._writing[0].timesteps, reason=str(error))

    def _take(self, kind: str) -> _Taken:
        """Everything of now, as bytes."""
        model = self._model
        timesteps = 0 if kind == "initial" else model.num_timesteps
        metrics, files = self._described()
        taken = _Taken(kind, timesteps, metrics, files)
        if timesteps:  # the initial one is taken in the middle of a rollout
            # At its end a run does not ask its simulator any more, which may be away.
            files[LEARNER_FILE] = pack(captured(model, environments=kind == "periodic"))
            taken.write_replay = self._replay.mark(timesteps)
        return taken

    def _described(self) -> tuple[dict[str, float], dict[str, bytes]]:
        """How the run does, and the files that a policy is made of."""
        model = self._model
        told = {"ep_rew_mean": "r", "ep_len_mean": "l"}
        metrics = {
            f"rollout/{name}": float(np.mean([episode[key] for episode in model.ep_info_buffer]))
            for name, key in told.items()
            if model.ep_info_buffer
        }
        archive = io.BytesIO()
        model.save(archive)
        files = {"model.zip": archive.getvalue(), **self._artifact.files()}
        scaling = model.get_vec_normalize_env()
        if scaling is not None:
            files["vecnormalize.json"] = normalisation_json(scaling).encode()
        return metrics, files

    def _write(self, taken: _Taken) -> None:
        """Put it into the store, record it, and let go of what it outlives. Raises LeaseLost, StoreUnavailable."""
        begun, run_id = time.perf_counter(), self._run.run_id
        self._write_metrics()
        if taken.stored is None:
            stored = self._store.put(
                run_id, taken.timesteps, taken.kind, lambda folder: self._write_files(folder, taken)
            )
            taken.stored = replace(stored, score=taken.score)
        checkpoint = taken.stored
        reach("before_row", run_id)
        kept = [*(before for before in self._kept if before.timesteps != taken.timesteps), checkpoint]
        forget = [old.timesteps for old in outlived(kept, self._keep, self._keep_best)]
        if not self._registry.add_checkpoint(checkpoint, self._run.lease_epoch, forget):
            raise LeaseLost("another worker holds this run")
        reach("after_row", run_id)
        before, self._kept = self._kept, [one for one in kept if one.timesteps not in forget]
        staying = {one.path for one in self._kept}
        for old in before:
            if old.path not in staying:
                self._store.discard(old)
        self._replay.forget_all_but(self._kept)
        self._publish(checkpoint, taken)
        took = round(time.perf_counter() - begun, 4)
        _log.info("checkpoint_saved", kind=taken.kind, timesteps=taken.timesteps, bytes=checkpoint.size, seconds=took)

    def _publish(self, checkpoint: Checkpoint, taken: _Taken) -> None:
        """Make a version of it where the run wants that. Raises as ``Publisher.publish`` does."""
        run, epoch = self._run, self._run.lease_epoch
        if checkpoint.kind == "initial" and run.spec.experience is None:
            self._publisher.begin(run, checkpoint, taken.files, epoch)
        elif (
            checkpoint.kind in {"initial", "final"}
            or run.spec.publish_checkpoints
            or checkpoint.timesteps in self._wanted
        ):
            self.published = self._publisher.publish(run, checkpoint, policy_of(run), taken.metrics, taken.files, epoch)

    def _write_files(self, folder: Path, taken: _Taken) -> None:
        for name, data in taken.files.items():
            (folder / name).write_bytes(data)
            if name == "model.zip":
                reach("mid_write", self._run.run_id)
        if taken.write_replay is not None:
            taken.write_replay(folder)


def outlived(kept: Sequence[Checkpoint], newest: int, best: int) -> list[Checkpoint]:
    """Those of the checkpoints, oldest first, that are neither among the newest nor among the best."""
    scored = [checkpoint for checkpoint in kept if checkpoint.score is not None and math.isfinite(checkpoint.score)]
    ranked = sorted(scored, key=lambda checkpoint: (checkpoint.score, checkpoint.timesteps), reverse=True)
    staying = {checkpoint.timesteps for checkpoint in (*kept[-newest:], *ranked[:best])}
    return [checkpoint for checkpoint in kept if checkpoint.timesteps not in staying]
