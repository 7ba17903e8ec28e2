"""A run's checkpoints become versions of a policy."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import structlog

from auxilium_rl.core.dto import Checkpoint, Run
from auxilium_rl.core.errors import LeaseLost, ModelNotReady, PolicyNotFound, StoreUnavailable, VersionInUse
from auxilium_rl.core.policies import NewVersion, PolicyVersion, check_policy_name
from auxilium_rl.core.policy_ports import PolicyRegistry, PolicyStore
from auxilium_rl.core.ports import ModelStore

__all__ = ["Publisher", "policy_of"]

_log = structlog.get_logger(__name__)
_FILES = ("policy.onnx", "policy.json", "parity.npz", "critic.onnx", "model.zip", "vecnormalize.json")


def policy_of(run: Run) -> str:
    """The name under which a run publishes."""
    return run.spec.policy_name or run.run_id


class Publisher:
    """Publishes; the version has files of its own, so that it outlives the checkpoint and the run."""

    def __init__(self, registry: PolicyRegistry, policies: PolicyStore, models: ModelStore) -> None:
        self._registry, self._policies, self._models = registry, policies, models

    def begin(self, run: Run, initial: Checkpoint, files: Mapping[str, bytes], epoch: int) -> None:
        """A run's weights before their first update: version 0, unless its policy has versions already.

        Raises as ``publish`` does, for a policy of another contract too.
        """
        try:
            known = self._registry.find(policy_of(run)).contract_hash
        except PolicyNotFound:
            known = ""
        if known != _contract(initial, files)["contract_hash"]:
            self.publish(run, initial, policy_of(run), files=files, epoch=epoch)

    def publish(
        self,
        run: Run,
        checkpoint: Checkpoint,
        name: str,
        metrics: Mapping[str, float] | None = None,
        files: Mapping[str, bytes] | None = None,
        epoch: int | None = None,
    ) -> PolicyVersion:
        """Make a version of a checkpoint.

        Args:
            metrics: of the run then; None: what the checkpoint knows.
            files: of the checkpoint, by name; None: they are read.
            epoch: of the worker that publishes; None: a server does.

        Raises:
            InvalidRequest: the policy's versions have another contract, or the name is none.
            ModelNotReady: the checkpoint is of a release that knew no versions.
            ModelCorrupt, StoreUnavailable.
            LeaseLost: the run belongs to another worker; nothing was published.
        """
        check_policy_name(name, "policy_name")
        files = self._read(checkpoint) if files is None else {name: files[name] for name in _FILES if name in files}
        told = _contract(checkpoint, files)
        about = {"run_id": run.run_id, "timesteps": checkpoint.timesteps}
        stored = self._policies.put(name, files, about)
        score = {} if checkpoint.score is None else {"rollout/ep_rew_mean": checkpoint.score}
        version = self._registry.publish(
            NewVersion(
                name=name,
                run_id=run.run_id,
                algorithm=told["algorithm"],
                timesteps=checkpoint.timesteps,
                contract_hash=told["contract_hash"],
                path=stored.path,
                manifest_sha256=stored.manifest_sha256,
                files=stored.files,
                metrics={key: _number(value) for key, value in (score if metrics is None else metrics).items()},
                created_at=checkpoint.created_at,
            ),
            epoch,
        )
        if version is None or version.path != stored.path:  # the lease is lost, or it was published before
            self._policies.remove(stored.path)
        if version is None:
            raise LeaseLost("another worker holds this run")
        _log.info("version_published", policy=name, version=version.version, timesteps=version.timesteps)
        return version

    def withdraw(self, version: PolicyVersion) -> None:
        """Forget a version that nobody points to; else it stays."""
        try:
            now = self._registry.find(version.name, str(version.version))
            if now.path == version.path and not self._is_kept(now):
                self._registry.delete_version(version.name, version.version)
                self._policies.remove(version.path)
        except (PolicyNotFound, VersionInUse, StoreUnavailable) as why:
            _log.debug("version_stays", policy=version.name, version=version.version, reason=why.message)

    def _is_kept(self, version: PolicyVersion) -> bool:
        known = self._registry.get(version.name).versions
        return any(one.version == version.version and one.evaluations for one in known)

    def of_run(self, run: Run, timesteps: int | None, name: str) -> PolicyVersion:
        """Publish a checkpoint that a run has now; None: its newest. Raises as ``publish`` does."""
        kept = [one for one in run.checkpoints if not one.corrupt and timesteps in (None, one.timesteps)]
        if not kept:
            known = ", ".join(str(one.timesteps) for one in run.checkpoints if not one.corrupt) or "none"
            wanted = "a checkpoint" if timesteps is None else f"a checkpoint of {timesteps} timesteps"
            raise ModelNotReady(f"run '{run.run_id}' has not {wanted}; it has those of {known} timesteps")
        return self.publish(run, kept[-1], name or policy_of(run))

    def _read(self, checkpoint: Checkpoint) -> dict[str, bytes]:
        names = set(self._models.names(checkpoint))
        return {name: self._models.read(checkpoint, name) for name in _FILES if name in names}


def _contract(checkpoint: Checkpoint, files: Mapping[str, bytes]) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(files["policy.json"])
    if "contract_hash" not in told:
        raise ModelNotReady(
            f"{checkpoint.path} was made by an earlier release and cannot become a version; extend its run"
        )
    return told


def _number(value: float) -> float | str:
    """JSON has no NaN and no infinities."""
    return value if math.isfinite(value) else str(value)
