"""Runs that are made of others: tried again, longer, or anew with the weights of another; and runs that are forgotten.

A run that has ended never changes, so each of these is a run of its own that names its parent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import structlog

from auxilium_rl.core.dto import EnvironmentSource, Parent, Run
from auxilium_rl.core.errors import InvalidRequest, ModelNotReady, RunEnded, RunNotEnded
from auxilium_rl.core.requests import StartRequest
from auxilium_rl.core.states import TERMINAL, RunState
from auxilium_rl.core.training import TrainingOrchestrator

__all__ = ["Changes", "Lineage"]

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Changes:
    """What of a run's specification shall be otherwise in the run that is made of it; None or empty: as it was.

    Attributes:
        hyperparameters: those that differ.
    """

    experiment_id: str = ""
    total_timesteps: int = 0
    seed: int | None = None
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    environment: EnvironmentSource | None = None
    model_output_path: str | None = None


class Lineage:
    """Makes runs of runs.

    Args:
        forget: told of a run that was deleted, to let go of what else is kept of it.
    """

    def __init__(self, orchestrator: TrainingOrchestrator, forget: Callable[[str], None] = lambda _: None) -> None:
        self._orchestrator = orchestrator
        self._registry = orchestrator.registry
        self._store = orchestrator.model_store
        self._forget = forget

    def retry(self, run_id: str, changes: Changes = Changes(), *, from_start: bool = False, key: str = "") -> Run:
        """The same again, from the newest checkpoint of a run that FAILED or was STOPPED.

        Args:
            from_start: from nothing instead.

        Raises:
            RunNotFound, RunNotEnded, RunEnded (it SUCCEEDED), and what ``TrainingOrchestrator.submit`` raises.
        """
        parent = self._ended(run_id)
        if parent.state is RunState.SUCCEEDED:
            raise RunEnded(f"run '{run_id}' SUCCEEDED; extend or clone it")
        done = 0 if from_start else _learned(parent)
        return self._submit(parent, "repeat" if from_start else "retry", changes, done, key)

    def extend(self, run_id: str, additional_timesteps: int, changes: Changes = Changes(), *, key: str = "") -> Run:
        """More timesteps on a run that has ended, with all that its newest checkpoint holds.

        Raises:
            RunNotFound, RunNotEnded, InvalidRequest, and what ``TrainingOrchestrator.submit`` raises.
            ModelNotReady: the run has learned nothing that could go on.
        """
        if additional_timesteps <= 0:
            raise InvalidRequest.of("additional_timesteps", f"{additional_timesteps} given; at least 1 is accepted")
        parent = self._ended(run_id)
        done = _learned(parent)
        if not done:
            raise ModelNotReady(f"run '{run_id}' ended {parent.state} without a checkpoint; retry it")
        more = replace(changes, total_timesteps=done + additional_timesteps)
        return self._submit(parent, "extend", more, done, key)

    def clone(self, run_id: str, changes: Changes = Changes(), *, key: str = "") -> Run:
        """A new run of the same algorithm that begins with the newest weights of another, ended or not.

        Raises:
            RunNotFound, and what ``TrainingOrchestrator.submit`` raises.
            ModelNotReady: the run has no model yet, or never will.
        """
        parent = self._registry.get(run_id)
        if parent.newest_checkpoint is None:
            raise ModelNotReady(f"run '{run_id}' is {parent.state} and has no model to begin with")
        own = replace(changes, model_output_path=changes.model_output_path or "")
        return self._submit(parent, "clone", own, 0, key)

    def delete(self, run_id: str) -> int:
        """Forget a run that has ended, and remove its files but the exported model; gives the bytes that were freed.

        Raises:
            RunNotFound, RunNotEnded, RunInUse, StoreUnavailable.
        """
        self._registry.delete(run_id)  # what remains if this process dies now is collected as files without a row
        freed = self._store.remove_run(run_id)
        self._forget(run_id)
        _log.info("run_deleted", run_id=run_id, bytes=freed)
        return freed

    def _ended(self, run_id: str) -> Run:
        run = self._registry.get(run_id)
        if run.state not in TERMINAL:
            raise RunNotEnded(f"run '{run_id}' is {run.state} and has not ended; stop it first")
        return run

    def _submit(self, parent: Run, kind: str, changes: Changes, done: int, key: str) -> Run:
        spec = parent.spec
        path = spec.model_output_path if changes.model_output_path is None else changes.model_output_path
        request = StartRequest(
            algorithm=spec.algorithm,
            experiment_id=changes.experiment_id or spec.experiment_id,
            total_timesteps=changes.total_timesteps or spec.total_timesteps,
            seed=changes.seed if changes.seed is not None or kind == "clone" else spec.seed,
            hyperparameters={**spec.hyperparameters, **changes.hyperparameters},
            model_output_path=path,
            environment=changes.environment or spec.environment,
            checkpoint_freq=spec.checkpoint_freq,
            policy=spec.policy,
            normalize=spec.normalize,
            frame_stack=spec.frame_stack,
            limits=spec.limits,
            policy_name=spec.policy_name,
            publish_checkpoints=spec.publish_checkpoints,
            evaluation=spec.evaluation,
            experience=spec.experience,
            parent=Parent(parent.run_id, kind),
            timesteps_done=done,
        )
        return self._orchestrator.submit(request, key)


def _learned(run: Run) -> int:
    """The timesteps of the newest checkpoint that can be gone on from."""
    newest = run.newest_checkpoint
    return newest.timesteps if newest else 0
