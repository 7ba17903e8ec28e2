"""The only place that knows everything: builds the object graph from settings and runs it."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

import structlog
from pydantic import ValidationError

from auxilium_rl.core.acting import ActingService
from auxilium_rl.core.dto import EnvironmentSpec
from auxilium_rl.core.errors import AuxiliumError, InvalidRequest
from auxilium_rl.core.evaluations import Evaluations
from auxilium_rl.core.experience.hub import ExperienceHub
from auxilium_rl.core.feed import RunFeed
from auxilium_rl.core.housekeeping import Housekeeping, Retention
from auxilium_rl.core.lineage import Lineage
from auxilium_rl.core.model_cache import ModelCache
from auxilium_rl.core.policy_clock import PolicyClock
from auxilium_rl.core.policy_manager import PolicyManager
from auxilium_rl.core.ports import ModelStore as ModelStorePort
from auxilium_rl.core.publishing import Publisher
from auxilium_rl.core.requests import RequestDefaults
from auxilium_rl.core.sources import SourceDefaults
from auxilium_rl.core.training import TrainingOrchestrator
from auxilium_rl.infra.act_workers import ActWorkers
from auxilium_rl.infra.config import EnvConfig, ServiceConfig, Settings, setting_errors
from auxilium_rl.infra.evaluator import Evaluator
from auxilium_rl.infra.executor import LocalExecutor
from auxilium_rl.infra.experience.log import SegmentLogs
from auxilium_rl.infra.gateway import Gateway
from auxilium_rl.infra.gym_closer import GymCloser
from auxilium_rl.infra.logging import configure_logging
from auxilium_rl.infra.model_store import ModelStore
from auxilium_rl.infra.policy_loading import PolicyLoader
from auxilium_rl.infra.policy_store import PolicyStore
from auxilium_rl.infra.replay.log import ReplayLogs
from auxilium_rl.infra.replay.processes import ReplayProcesses
from auxilium_rl.infra.server_lock import ServerLock
from auxilium_rl.infra.source_rules import source_refusal
from auxilium_rl.infra.sql.agents import SqlAgentRegistry
from auxilium_rl.infra.sql.database import migrate, open_database
from auxilium_rl.infra.sql.metrics import SqlMetricStore
from auxilium_rl.infra.sql.policies import SqlPolicyRegistry
from auxilium_rl.infra.sql.registry import SqlRunRegistry
from auxilium_rl.transport.experience_servicer import ExperienceServicer
from auxilium_rl.transport.grpc_server import SERVICES, GrpcServer
from auxilium_rl.transport.health_servicer import HealthMonitor
from auxilium_rl.transport.inference_servicer import InferenceServicer
from auxilium_rl.transport.policy_servicer import PolicyServicer
from auxilium_rl.transport.run_servicer import RunServicer
from auxilium_rl.transport.trainer_servicer import TrainerServicer

__all__ = ["Application", "embed", "serve"]

_log = structlog.get_logger(__name__)
_FAREWELL = 0.1
"""Seconds for which callers are told that the server goes away: gRPC cancels calls that come while the port closes."""


class Application:
    """One server with everything behind it.

    Raises:
        StoreUnavailable: a folder or the database cannot be written, another server uses the data folder, or the port
            is taken. Nothing is left running.
    """

    def __init__(
        self,
        settings: Settings,
        orchestrator: TrainingOrchestrator | None = None,
        adapter_factory: bytes = b"",
        default_env: str = "",
    ) -> None:
        self._settings = settings
        self._lock = ServerLock(settings.data_dir)
        store = orchestrator.model_store if orchestrator else _model_store(settings)
        if isinstance(store, ModelStore):
            store.sweep()
        self._engine = open_database(settings.sql_url)
        migrate(self._engine)
        registry = SqlRunRegistry(self._engine)
        self._feed = RunFeed(registry, SqlMetricStore(self._engine), capacity=settings.max_watch_streams)
        token = settings.attach_token.get_secret_value() if settings.attach_token else ""
        self._gateway = Gateway(registry, token, settings.max_attached_simulators)
        self._replay = ReplayProcesses(
            settings.experience_folder, settings.replay_shards, settings.grpc_max_message_mb << 20, settings.log_level
        )
        self.executor = LocalExecutor(
            settings.to_worker(),
            settings.logs_folder,
            torch_threads=settings.worker_torch_threads,
            adapter_factory=adapter_factory,
            gateway=(self._gateway.address, self._gateway.secret),
            replay=self._replay.shards,
        )
        self.orchestrator = orchestrator or TrainingOrchestrator(
            store,
            EnvConfig(settings.observation_dim, settings.action_dim, settings.max_steps),
            settings.checkpoint_freq,
        )
        self._closer = GymCloser(registry, settings.sim_close_timeout, self.orchestrator.wake)
        self.orchestrator.connect(
            registry,
            self.executor,
            _defaults(settings, self.orchestrator, default_env),
            max_concurrent_runs=settings.max_concurrent_runs,
            max_queued_runs=settings.max_queued_runs,
            max_attempts=settings.max_attempts,
            lease=settings.lease_seconds,
            place=self._lock.place,
            max_unfinished_runs=settings.max_unfinished_runs_per_experiment,
        )
        self._build_policies(store, registry)
        lineage = Lineage(self.orchestrator, self._run_deleted)
        versions = SqlPolicyRegistry(self._engine), self._policy_store
        logs = self._experience_logs = SegmentLogs(settings.experience_folder, self._lock.place)
        self._housekeeping = Housekeeping(registry, store, lineage, _retention(settings), versions, experience=logs)
        self.orchestrator.on_run_ended = self._run_ended
        self._health = HealthMonitor(
            SERVICES,
            [registry.probe, store.probe, self._policy_store.probe],
            settings.health_probe_interval,
            settings.max_watch_streams,
        )
        self._hub = ExperienceHub(
            registry,
            SqlAgentRegistry(self._engine),
            logs,
            ReplayLogs(settings.experience_folder, self._lock.place, self._replay),
            self.orchestrator.owner,
            settings.max_agents,
        )
        self._build_server(lineage)

    def _build_server(self, lineage: Lineage) -> None:
        settings = self._settings
        self._acts = PolicyServicer(
            self.orchestrator,
            self._acting,
            self._policies,
            self._evaluations,
            settings.act_max_streams,
            settings.act_fast_lane,
            settings.grpc_max_message_mb << 20,
        )
        self._server = GrpcServer(
            TrainerServicer(self.orchestrator, self._acting),
            RunServicer(
                self.orchestrator,
                self._feed,
                lambda run: str(settings.logs_folder / run / "tensorboard"),
                self._gateway.simulators,
                lineage,
                self._housekeeping,
            ),
            self._acts,
            InferenceServicer(
                self.orchestrator,
                self._acting,
                self._policies,
                lambda: self._health.ready,
                settings.act_max_batch,
            ),
            ExperienceServicer(self.orchestrator, self._hub, self._policies, settings.grpc_max_message_mb << 20),
            self._health,
            self._gateway,
            host=settings.grpc_host,
            port=settings.grpc_port,
            max_workers=settings.grpc_max_workers,
            max_streams=settings.max_watch_streams,
            max_act_streams=settings.act_max_streams,
            max_attached=settings.max_attached_streams,
            max_agents=settings.max_agents,
            max_message_mb=settings.grpc_max_message_mb,
            shared=settings.act_workers > 1,
        )
        self.port = self._server.port
        self._act_workers = ActWorkers(settings.to_worker(), settings.act_workers - 1)
        self._control = ""
        if settings.act_workers > 1:
            self._control_folder = tempfile.TemporaryDirectory(prefix="auxilium-control-")  # for this user alone
            self._control = f"unix:{self._control_folder.name}/grpc"
            self._server.listen_aside(self._control)

    def _build_policies(self, store: ModelStorePort, registry: SqlRunRegistry) -> None:
        settings = self._settings
        self._policy_store = PolicyStore(settings.policies_place)
        self._policy_store.sweep()
        rows = SqlPolicyRegistry(self._engine)
        self._policy_clock = PolicyClock(rows)
        loader = PolicyLoader(store, self._policy_store, settings.act_max_batch)
        self._acting = ActingService(
            registry,
            rows,
            self._policy_clock,
            ModelCache(settings.act_cache_mb << 20),
            loader.of_checkpoint,
            loader.of_version,
        )
        self._policies = PolicyManager(
            rows,
            self._policy_store,
            registry,
            Publisher(rows, self._policy_store, store),
            self._policy_clock,
            self._acting,
            settings.max_watch_streams,
        )
        self._evaluator = Evaluator(settings.to_worker(), settings.max_concurrent_evaluations)
        self._evaluations = Evaluations(
            self._policies, registry, self._evaluator, self.orchestrator.defaults.source, self._closer.wake
        )

    def start(self) -> None:
        """Begin to answer, to train what is queued and to close what is owed."""
        self._gateway.start()
        self._replay.start()
        self.orchestrator.start()
        self._feed.start()
        self._policy_clock.start()
        self._hub.start()
        self._closer.start()
        self._server.start()
        if self._control:
            self._act_workers.start(self.port, self._control)
        self._housekeeping.start()
        self._health.start()
        _log.info("serving", address=f"{self._settings.grpc_host}:{self.port}", data=str(self._settings.data_dir))

    def wait_for_termination(self, timeout: float | None = None) -> bool:
        """Wait until ``stop`` is through; False when ``timeout`` seconds passed before."""
        return self._server.wait_for_termination(timeout)

    def stop(self, grace: float | None = None) -> None:
        """NOT_SERVING first; runs save and leave within ``grace`` seconds (SHUTDOWN_GRACE); then the server ends."""
        self._health.shut_down()
        in_time = self.orchestrator.drain(self._settings.shutdown_grace if grace is None else grace)
        if not in_time:
            _log.warning("workers_killed_at_shutdown")
        self.orchestrator.close()
        self._housekeeping.close()
        self._closer.close()
        self._feed.close()
        self._policy_clock.close()
        self._evaluator.close()
        self._gateway.close()
        self.orchestrator.farewell()
        self._hub.close()
        self._replay.close()
        self._server.wait_for_termination(_FAREWELL)
        self._act_workers.close()
        self._acts.close()
        self._server.stop(1.0)
        self._engine.dispose()
        self._lock.release()
        _log.info("stopped")

    def _run_deleted(self, run_id: str) -> None:
        self._acting.forget(run_id)
        self._policies.run_deleted(run_id)
        self._hub.forget(run_id)
        shutil.rmtree(self._settings.logs_folder / run_id, ignore_errors=True)
        self._experience_logs.remove(run_id)

    def _run_ended(self) -> None:
        self._closer.wake()
        self._gateway.sweep()
        self._hub.look()


def _retention(settings: Settings) -> Retention:
    """What of ended runs goes by itself: nothing, unless RETENTION_DAYS says after how long."""
    if not settings.retention_days:
        return Retention()
    return Retention(settings.retention_days * 86_400, settings.retention_keep_last, settings.retention_keep_best)


def _model_store(settings: Settings) -> ModelStore:
    return ModelStore(settings.models_folder, settings.checkpoint_place, export_root=settings.export_root)


def _defaults(settings: Settings, orchestrator: TrainingOrchestrator, default_env: str) -> RequestDefaults:
    shape = orchestrator.env_config
    return RequestDefaults(
        SourceDefaults(
            EnvironmentSpec(shape.observation_dim, shape.action_dim, max_steps=shape.max_steps),
            default_env or settings.default_env,
            settings.simulation_grpc_host,
            lambda uri: source_refusal(uri, settings),
        ),
        checkpoint_freq=orchestrator.checkpoint_freq,
        algorithms=settings.algorithms,
        replay_shards=settings.replay_shards,
    )


def serve(overrides: Mapping[str, object] | None = None) -> int:
    """Run a server until SIGTERM or SIGINT; gives the exit code.

    Args:
        overrides: settings by name that beat the environment.
    """
    try:
        settings = Settings(**dict(overrides or {}))  # type: ignore[arg-type]
    except (ValidationError, ValueError) as error:
        sys.stderr.write(f"auxilium: {setting_errors(error)}\n")
        return 2
    configure_logging(settings.log_level, settings.log_format)
    try:
        application = Application(settings)
    except AuxiliumError as error:
        sys.stderr.write(f"auxilium: {error.message}\n")
        return 1
    stopping = threading.Event()
    _handle_signals(stopping)
    try:
        application.start()
    except AuxiliumError as error:
        sys.stderr.write(f"auxilium: {error.message}\n")
        application.stop(0.0)
        return 1
    while not stopping.wait(1.0):  # a signal that comes just before the wait does not end it
        pass
    application.stop()
    return 0


def _handle_signals(stopping: threading.Event) -> None:
    """The first SIGTERM or SIGINT begins the shutdown, a second one ends the process at once."""

    def handle(number: int, _frame: FrameType | None) -> None:
        if stopping.is_set():
            os._exit(128 + number)
        stopping.set()

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)


def embed(
    orchestrator: TrainingOrchestrator,
    config: ServiceConfig,
    adapter_factory: Callable[..., Any] | None,
    *,
    model_store: Any = None,
) -> Application:
    """What ``transport.grpc_server.create_server`` documents."""
    if model_store is not None:
        orchestrator.model_store = model_store
    settings = Settings(
        grpc_host=config.host,
        grpc_port=config.port,
        grpc_max_workers=config.max_workers,
        models_dir=config.models_dir,
        checkpoint_dir=config.checkpoint_dir,
        data_dir=config.models_dir if "://" in config.checkpoint_dir else config.checkpoint_dir,
        logs_dir=None,
        log_level=config.log_level,
    )
    configure_logging(settings.log_level, settings.log_format)
    default_env = "adapter" if adapter_factory is not None else "fake"
    return Application(settings, orchestrator, _pickled(adapter_factory), default_env)


def _pickled(factory: Callable[..., Any] | None) -> bytes:
    """The factory as bytes for this program's own workers."""
    if factory is None:
        return b""
    import cloudpickle

    try:
        data: bytes = cloudpickle.dumps(factory)
    except Exception as error:
        raise InvalidRequest.of(
            "adapter_factory", f"it must travel to a worker process, but cannot be pickled: {error}"
        ) from error
    return data
