"""A worker: one process, one run. Finds its job on standard input, ends when standard input ends.

Exit codes: 0, what the run came to is in the registry; 1, it could not be written there (the log says why); 3, the run
belongs to another worker now.
"""

from __future__ import annotations

import base64
import faulthandler
import json
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

import structlog

from auxilium_rl.core.control import Control, EndedEarly
from auxilium_rl.core.dto import Run
from auxilium_rl.core.endurance import Endurance
from auxilium_rl.core.errors import AuxiliumError, LeaseLost, StoreUnavailable
from auxilium_rl.core.experience.lanes import AgentLanes
from auxilium_rl.core.experience.layout import layout_of
from auxilium_rl.core.experience.plan import AGENTS
from auxilium_rl.core.heartbeat import LOST, WISHES, Heartbeat
from auxilium_rl.core.lanes import LanePort
from auxilium_rl.core.learning import Learner
from auxilium_rl.core.limits import LimitWatch
from auxilium_rl.core.patience import RunPatience
from auxilium_rl.core.publishing import Publisher
from auxilium_rl.core.resuming import beginning_of
from auxilium_rl.core.states import RunState
from auxilium_rl.core.training_evaluation import EvaluationTools, TrainingEvaluation
from auxilium_rl.infra.config import Settings
from auxilium_rl.infra.environments import open_lanes
from auxilium_rl.infra.executor import log_tail
from auxilium_rl.infra.experience.reader import SegmentReader
from auxilium_rl.infra.impatience import Impatience
from auxilium_rl.infra.logging import configure_logging
from auxilium_rl.infra.model_store import ModelStore
from auxilium_rl.infra.policy_loading import PolicyLoader
from auxilium_rl.infra.policy_store import PolicyStore
from auxilium_rl.infra.replay.client import ShardClient
from auxilium_rl.infra.replay.frames import Shards
from auxilium_rl.infra.session.group import GatewayAddress
from auxilium_rl.infra.sql.database import open_database
from auxilium_rl.infra.sql.metrics import SqlMetricStore
from auxilium_rl.infra.sql.policies import SqlPolicyRegistry
from auxilium_rl.infra.sql.registry import SqlRunRegistry

__all__ = ["main"]

_log = structlog.get_logger(__name__)


@dataclass
class _Worker:
    """What one worker holds while it lives."""

    run: Run
    settings: Settings
    registry: SqlRunRegistry
    metrics: SqlMetricStore
    policies: SqlPolicyRegistry
    control: Control
    factory: Callable[..., Any] | None
    gateway: GatewayAddress
    replay: Shards | None

    def work(self) -> int:
        """Train, then write what the run came to; gives the exit code."""
        heartbeat = Heartbeat(
            self.run,
            self.registry,
            self.control,
            lease=self.settings.lease_seconds,
            interval=self.settings.heartbeat_seconds,
            stall=self.settings.stall_timeout,
        )
        heartbeat.start()
        limits = LimitWatch(self.run, self.registry, self.control)
        limits.start()
        endurance = Endurance(self.run, self.registry, self.control)
        try:
            fields = self._train(endurance)
        except LeaseLost as lost:
            _log.error("run_left_to_another", reason=lost.message)
            return LOST
        except EndedEarly as early:  # while it waited for a simulator or its store
            fields = {"ended_early": early.command}
        except BaseException as error:  # noqa: BLE001 - whatever it was, the run must say so
            _log.exception("run_failed")
            fields = {"target": RunState.FAILED, "error_message": _explain(error), "log_tail": self._log_tail()}
        limits.stop()
        try:
            ended = endurance.until_it_works(lambda: self._write_end(fields))
        except EndedEarly:
            _log.error("end_not_written", wanted=str(fields.get("target", fields)))
            return 1
        _log.info("run_ended", state=str(fields.get("target", fields)), written=ended)
        heartbeat.stop()
        return 0 if ended else LOST

    def _write_end(self, fields: dict[str, Any]) -> bool:
        run_id, epoch = self.run.run_id, self.run.lease_epoch
        if "ended_early" in fields:  # what was reported last is what is known to have been done
            fields = self._ending(fields["ended_early"], self.registry.get(run_id).timesteps_done)
        if self.registry.transition(run_id, epoch=epoch, **fields):
            return True
        if fields["target"] is not RunState.PAUSED:
            return False
        again = {**fields, "target": RunState.INTERRUPTED, "reason": "no pause is wished any more"}
        return self.registry.transition(run_id, epoch=epoch, **again)

    def _train(self, endurance: Endurance) -> dict[str, Any]:
        settings = self.settings
        store = endurance.until_it_works(
            lambda: ModelStore(settings.models_folder, settings.checkpoint_place, export_root=settings.export_root)
        )
        patience = RunPatience(self.run, self.registry, self.control, settings.sim_wait_limit)
        resumption = endurance.until_it_works(lambda: beginning_of(self.run, store, self.registry))
        policies = endurance.until_it_works(self._policy_store)
        evaluation = self._evaluation(store, policies)
        try:
            lanes = self._lanes(patience)
        except BaseException:
            if evaluation is not None:
                evaluation.close()
            raise
        try:
            learner = Learner(
                self.run,
                lanes,
                registry=self.registry,
                metrics=self.metrics,
                store=store,
                control=self.control,
                endurance=endurance,
                publisher=Publisher(self.policies, policies, store),
                evaluation=evaluation,
                checkpoint_keep=settings.checkpoint_keep,
                keep_best=settings.checkpoint_keep_best,
                tensorboard_dir=settings.logs_folder / self.run.run_id / "tensorboard",
                resumption=resumption,
            )
            outcome = learner.learn()
            exported = "" if outcome.command in {"interrupt", "pause"} else learner.export()
        finally:
            lanes.close()
            if evaluation is not None:
                evaluation.close()
        return self._ending(outcome.command, outcome.timesteps_done, exported)

    def _lanes(self, patience: RunPatience) -> LanePort:
        spec, settings = self.run.spec, self.settings
        if spec.environment.uri == AGENTS:
            return AgentLanes(
                self.run, self._reader_of(self.run.run_id), self.control, patience, self._shards(), self._reader_of
            )
        return open_lanes(spec.environment, settings, patience, self.factory, spec.experiment_id, self.gateway, self)

    def _reader_of(self, run_id: str) -> SegmentReader:
        return SegmentReader(self.settings.experience_folder / run_id)

    def _shards(self) -> ShardClient | None:
        layout = layout_of(self.run, self.registry.get)
        if layout is None:
            return None
        if self.replay is None:
            raise StoreUnavailable("the experience of this run lies in replay shards, and the server has none")
        return ShardClient(self.replay, layout)

    def _evaluation(self, store: ModelStore, policies: PolicyStore) -> TrainingEvaluation | None:
        plan, settings = self.run.spec.evaluation, self.settings
        if plan is None:
            return None

        def open_them() -> LanePort:
            source = plan.environment
            return open_lanes(source, settings, Impatience(), self.factory, self.run.spec.experiment_id)

        loader = PolicyLoader(store, policies, settings.act_max_batch)
        tools = EvaluationTools(self.policies, open_them, loader.of_version)
        return TrainingEvaluation(self.run, plan, tools, self.control)

    def _policy_store(self) -> PolicyStore:
        return PolicyStore(self.settings.policies_place)

    def recall(self) -> tuple[str, bytes]:
        """See ``SessionMemory``."""
        kept = json.loads(self.run.simulator_session or "{}")
        return kept.get("session_id", ""), bytes.fromhex(kept.get("resume_token", ""))

    def remember(self, session_id: str, resume_token: bytes) -> None:
        """See ``SessionMemory``."""
        session = json.dumps({"session_id": session_id, "resume_token": resume_token.hex()})
        try:
            self.registry.put_simulator_session(self.run.run_id, self.run.lease_epoch, session)
        except StoreUnavailable as error:  # the next worker would begin a session of its own
            _log.warning("simulator_session_not_noted", reason=error.message)

    def _ending(self, command: str, done: int, exported: str = "") -> dict[str, Any]:
        """The transition that the run ends with, or leaves this worker."""
        if command == "interrupt":
            reason = "the server shut down"
            return {"target": RunState.INTERRUPTED, "reason": reason, "timesteps_done": done, "forgiven": True}
        if command == "pause":
            reason = "paused on request"
            return {"target": RunState.PAUSED, "reason": reason, "timesteps_done": done, "forgiven": True}
        fields: dict[str, Any] = {"target": RunState.SUCCEEDED, "timesteps_done": done, "exported_path": exported}
        if command == "stop":
            why = f"stopped {self.control.stopped_why} at {done} of {self.run.spec.total_timesteps} timesteps"
            fields |= {"target": RunState.STOPPED, "error_message": why}
        return fields

    def _log_tail(self) -> str:
        sys.stderr.flush()
        return log_tail(self.settings.logs_folder / self.run.run_id / "worker.log")


def _explain(error: BaseException) -> str:
    return error.message if isinstance(error, AuxiliumError) else f"{type(error).__name__}: {error}"


def _listen(stream: IO[bytes], control: Control) -> None:
    """Follow commands; when the stream ends the server is gone, and so is this process."""
    for line in stream:
        control.tell(json.loads(line)["command"])
    os._exit(4)


def main() -> int:
    """Do the job that comes as the first line of standard input; gives the exit code."""
    faulthandler.enable()
    stream = os.fdopen(0, "rb", closefd=False)
    first = stream.readline()
    if not first:
        return 4
    job = json.loads(first)
    settings = Settings.from_worker(job["settings"])
    configure_logging(settings.log_level, "json")
    structlog.contextvars.bind_contextvars(run_id=job["run_id"], epoch=job["epoch"])
    control = Control()
    threading.Thread(target=_listen, args=(stream, control), name="control", daemon=True).start()
    engine = open_database(settings.sql_url)
    registry = SqlRunRegistry(engine)
    run = registry.get(job["run_id"])
    if run.lease_epoch != job["epoch"]:
        return LOST
    control.tell(WISHES[run.stop_requested])
    _set_threads(settings.worker_torch_threads)
    gateway = GatewayAddress(job["gateway"][0], job["gateway"][1], run.run_id)
    factory = _factory(job["adapter_factory"])
    replay = None if job["replay"] is None else Shards(*job["replay"])
    return _Worker(
        run, settings, registry, SqlMetricStore(engine), SqlPolicyRegistry(engine), control, factory, gateway, replay
    ).work()


def _factory(encoded: str) -> Callable[..., Any] | None:
    """An embedding program's own factory; it comes from that program's executor, never from the network."""
    if not encoded:
        return None
    import cloudpickle

    factory: Callable[..., Any] = cloudpickle.loads(base64.b64decode(encoded))
    return factory


def _set_threads(count: int) -> None:
    import torch

    torch.set_num_threads(count)


if __name__ == "__main__":
    sys.exit(main())
