"""The orchestrator: takes runs in, gives them to workers in order, and knows how each ended. Free of torch."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import signal
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import structlog

from auxilium_rl.core.dto import EnvironmentSpec, Run
from auxilium_rl.core.errors import AuxiliumError, Draining, InvalidRequest, RunNotFound, StoreBusy, StoreUnavailable
from auxilium_rl.core.ports import STALLED, Executor, ModelStore, RunRegistry, WorkerExit
from auxilium_rl.core.reaping import LEASE_RAN_OUT, Reaper
from auxilium_rl.core.requests import RequestDefaults, StartRequest, build_spec, check_environment_spec, gym_ids_in
from auxilium_rl.core.states import ACTIVE, RunState

__all__ = ["TrainingOrchestrator", "describe_exit", "retry_delay"]

_log = structlog.get_logger(__name__)
_IDLE_CHECK = 5.0
_START_LEASE = 30.0
"""Seconds for a worker to come up, and renew the lease itself."""
_FIRST_DELAY, _LONGEST_DELAY = 10.0, 360.0
_MEANINGS = {
    "SIGKILL": " (out of memory, or somebody killed it)",
    "SIGSEGV": " (segmentation fault)",
    "SIGABRT": " (aborted by a library)",
    "SIGBUS": " (bus error: a disk or memory gave out)",
}


class TrainingOrchestrator:
    """Runs and their workers.

    An embedding program makes it of the first three arguments and hands it to ``create_server``, which calls
    ``connect``.

    Args:
        model_store: where models lie.
        env_config: an object with ``observation_dim``, ``action_dim`` and ``max_steps``: the shape of environments
            where none was negotiated.
        checkpoint_freq: timesteps between checkpoints where a request says nothing.
    """

    def __init__(self, model_store: ModelStore, env_config: Any, checkpoint_freq: int = 10_000) -> None:
        self.model_store = model_store
        self.env_config = env_config
        self.checkpoint_freq = checkpoint_freq
        self.owner = uuid.uuid4().hex
        self._wake = threading.Event()
        self._draining = threading.Event()
        self._closed = self._gone = False
        self._retry_at = math.inf
        self._unsettled: list[WorkerExit] = []
        self._live: dict[tuple[str, int], str] = {}
        self._lock = threading.Lock()
        self._all_gone = threading.Condition(self._lock)
        self._thread = threading.Thread(target=self._dispatch, name="dispatch", daemon=True)
        self.on_run_ended: Callable[[], None] = lambda: None

    def connect(
        self,
        registry: RunRegistry,
        executor: Executor,
        defaults: RequestDefaults,
        *,
        max_concurrent_runs: int,
        max_queued_runs: int,
        max_unfinished_runs: int = 0,
        max_attempts: int = 3,
        lease: float = 30.0,
        place: str = "",
    ) -> None:
        """Say on what the runs are kept and executed; once, before ``start``."""
        self.registry, self._executor, self.defaults = registry, executor, defaults
        self._max_concurrent, self._max_queued = max_concurrent_runs, max_queued_runs
        self._max_unfinished = max_unfinished_runs
        self._max_attempts, self._lease = max_attempts, lease
        self._reaper = Reaper(registry, executor, lease)
        if place:  # what an earlier server at the same place held is nobody's
            self.owner = f"{place}:{self.owner}"

    def start(self) -> None:
        """Take stock of what an earlier server left behind, then begin to run what is queued."""
        for run in self.registry.interrupt_orphans(self.owner, "the server that ran it went away"):
            _log.warning("run_interrupted", run_id=run.run_id, timesteps_done=run.timesteps_done)
        self._executor.start(self._worker_ended)
        self._wake.set()
        self._thread.start()

    def negotiate(self, experiment_id: str, spec: EnvironmentSpec) -> None:
        """Remember the shape of an experiment's environment. Raises InvalidRequest."""
        if not experiment_id.strip():
            raise InvalidRequest.of("experiment_id", "empty; a name is needed")
        check_environment_spec(spec)
        self.registry.put_negotiated(experiment_id, spec)

    def submit(self, request: StartRequest, idempotency_key: str = "") -> Run:
        """Take a run in; it is stored when this returns.

        A refused start that names gym ids owes each of them a Close, since their simulator waits for it.

        Raises:
            InvalidRequest, IdempotencyConflict, QueueFull, QuotaExceeded, Draining, StoreUnavailable.
        """
        try:
            if self._draining.is_set():
                raise Draining("the server is shutting down and takes no new runs")
            negotiated = self.registry.negotiated(request.experiment_id)
            spec = build_spec(request, self.defaults, negotiated, self.model_store.export_target)
            address = spec.environment.uri.removeprefix("grpc://") if spec.environment.uri.startswith("grpc://") else ""
            run = self.registry.create(
                uuid.uuid4().hex,
                spec,
                idempotency_key=idempotency_key,
                request_digest=_digest(request),
                close_address=address,
                max_queued=self._max_queued,
                max_unfinished=self._max_unfinished,
                timesteps_done=request.timesteps_done,
            )
        except AuxiliumError:
            self._owe_closes(request)
            raise
        _log.info("run_queued", run_id=run.run_id, algorithm=spec.algorithm, experiment_id=spec.experiment_id)
        self._wake.set()
        return run

    def stop_run(self, run_id: str, *, immediate: bool = False) -> Run:
        """Ask a run to stop. Raises RunNotFound.

        The model of a run that has no worker now is exported here.
        """
        exported = self._exported(self.registry.get(run_id))
        run = self.registry.request_stop(run_id, immediate=immediate, exported_path=exported)
        self._executor.signal(run_id, "stop_now" if immediate else "stop")
        self.on_run_ended()
        return run

    def pause_run(self, run_id: str) -> Run:
        """Ask a run to save itself and give its place to others. Raises RunNotFound, RunEnded."""
        run = self.registry.request_pause(run_id)
        self._executor.signal(run_id, "pause")
        return run

    def resume_run(self, run_id: str) -> Run:
        """Let a paused run go on, when its turn comes. Raises RunNotFound, RunEnded."""
        run = self.registry.resume(run_id)
        self._executor.signal(run_id, "go_on")
        self._wake.set()
        return run

    def _exported(self, run: Run) -> str:
        newest = run.newest_checkpoint
        waits = run.state in {RunState.PAUSED, RunState.INTERRUPTED}
        if not waits or not run.spec.export_path or newest is None or not newest.timesteps:
            return ""
        self.model_store.export(newest, run.spec.export_path)
        return run.spec.export_path

    def drain(self, grace: float) -> bool:
        """Take no new runs and let workers save and leave. True: all left within ``grace`` seconds."""
        self._draining.set()
        deadline = time.monotonic() + grace
        with self._lock:
            for run_id in set(self._live.values()):
                self._executor.signal(run_id, "interrupt")
            while self._live:
                left = deadline - time.monotonic()
                if left <= 0 or not self._all_gone.wait(left):
                    break
            return not self._live

    def wake(self) -> None:
        """Look for runs to start now."""
        self._wake.set()

    def check_here(self) -> None:
        """Raises Draining when the server answers no calls any more."""
        if self._gone:
            raise Draining("the server is going away; try again when it is back")

    def farewell(self) -> None:
        """From now on every call is refused, so that callers who hear it are not there when the port closes."""
        self._gone = True

    @property
    def draining(self) -> bool:
        """Whether the server is on its way out."""
        return self._draining.is_set()

    def close(self) -> None:
        """End every worker; what still ran is INTERRUPTED."""
        self._draining.set()
        self._closed = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()
        self._executor.kill()
        with self._lock:
            self._all_gone.wait_for(lambda: not self._live, timeout=5.0)
        self._executor.close()

    def _owe_closes(self, request: StartRequest) -> None:
        names = gym_ids_in(request)
        uri = request.environment.uri or f"grpc://{self.defaults.source.simulator}"
        if not names or not uri.startswith("grpc://") or self.defaults.source.default_env == "adapter":
            return
        try:
            self.registry.owe_closes(uri.removeprefix("grpc://"), names)
            self.on_run_ended()
        except AuxiliumError as error:
            _log.error("refused_start_not_closed", gym_ids=names, error=error.message)

    def _dispatch(self) -> None:
        while not self._closed:
            self._wake.wait(max(min(_IDLE_CHECK, self._lease / 4, self._retry_at - time.monotonic()), 0.0))
            self._wake.clear()
            if time.monotonic() >= self._retry_at:
                self._retry_at = math.inf
            try:
                self._reaper.unlock()
                self._settle_late()
                self._reap()
                while self._start_one():
                    pass
            except AuxiliumError as error:
                _log.error("dispatch_failed", error=error.message)
                if isinstance(error, StoreUnavailable) and not isinstance(error, StoreBusy):
                    self._reaper.store_was_away()
            except Exception:  # noqa: BLE001 - a fault of ours; without this thread no run would ever start again
                _log.exception("dispatch_failed")

    def _settle_late(self) -> None:
        """Write the ends that the database did not take when they came."""
        while self._unsettled:
            self._settle(self._unsettled[0])
            with self._lock:
                self._unsettled.pop(0)

    def _reap(self) -> None:
        """Take runs from workers that are not heard of any more."""
        for run in self._reaper.reap():
            _log.warning("lease_expired", run_id=run.run_id, timesteps_done=run.timesteps_done)
            if run.fruitless_attempts >= self._max_attempts:  # else it would be tried again for ever
                message = self._poison(run, LEASE_RAN_OUT)
                self.registry.transition(run.run_id, RunState.FAILED, epoch=run.lease_epoch, error_message=message)

    @staticmethod
    def _poison(run: Run, why: str) -> str:
        return f"POISON: {run.fruitless_attempts} attempts made no checkpoint; in the last one {why}"

    def _start_one(self) -> bool:
        with self._lock:
            if self._draining.is_set() or len(self._live) >= self._max_concurrent:
                return False
        run = self.registry.claim_next(self.owner, max(self._lease, _START_LEASE))
        if run is None:
            return False
        with self._lock:
            self._live[run.run_id, run.lease_epoch] = run.run_id
        _log.info("run_starting", run_id=run.run_id, attempt=run.attempt)
        self._executor.submit(run)
        if self._draining.is_set():
            self._executor.signal(run.run_id, "interrupt")
        return True

    def _worker_ended(self, ended: WorkerExit) -> None:
        try:
            self._settle(ended)
        except StoreUnavailable as error:
            _log.error("worker_end_not_recorded", run_id=ended.run_id, error=error.message)
            with self._lock:
                self._unsettled.append(ended)
        finally:
            with self._lock:
                self._live.pop((ended.run_id, ended.epoch), None)
                self._all_gone.notify_all()
            self._wake.set()
            self.on_run_ended()

    def _settle(self, ended: WorkerExit) -> None:
        """Write the end of a run whose worker did not."""
        with contextlib.suppress(RunNotFound):  # deleted between its worker's last write and its end
            self._write_end(self.registry.get(ended.run_id), ended)
        self._reaper.forget(ended.run_id, ended.epoch)

    def _write_end(self, run: Run, ended: WorkerExit) -> None:
        if run.state not in ACTIVE or run.lease_epoch != ended.epoch:
            _log.info("worker_ended", run_id=ended.run_id, state=str(run.state), exit_code=ended.exit_code)
            return
        why = self._reaper.reason(ended.run_id, ended.epoch) or describe_exit(ended.exit_code)
        target, message, retry_in = self._after_death(run, why)
        self.registry.transition(
            ended.run_id,
            target,
            epoch=ended.epoch,
            reason=why,
            error_message=message,
            log_tail=ended.log_tail,
            retry_in=retry_in,
        )
        if retry_in:
            self._retry_at = min(self._retry_at, time.monotonic() + retry_in)
        _log.error("worker_died", run_id=ended.run_id, reason=why, state=str(target), retry_in=retry_in)

    def _after_death(self, run: Run, why: str) -> tuple[RunState, str, float]:
        """What becomes of a run whose worker died: the state, the error message, and seconds to the next attempt."""
        if self._draining.is_set():
            return RunState.INTERRUPTED, "", 0.0
        if run.stop_requested in {"graceful", "immediate"}:
            done, total = run.timesteps_done, run.spec.total_timesteps
            return RunState.STOPPED, f"stopped on request at {done} of {total} timesteps; {why}", 0.0
        if run.stop_requested == "pause":
            return RunState.PAUSED, "", 0.0
        fruitless = run.fruitless_attempts
        if fruitless >= self._max_attempts:
            return RunState.FAILED, self._poison(run, why), 0.0
        return RunState.INTERRUPTED, "", retry_delay(fruitless)


def retry_delay(fruitless: int) -> float:
    """Seconds before the next attempt: none after the first that came to nothing, then 10 s, doubling to 6 min."""
    return 0.0 if fruitless <= 1 else min(_FIRST_DELAY * 2 ** (fruitless - 2), _LONGEST_DELAY)


def describe_exit(code: int) -> str:
    """How a worker died, in words: the signal's name or the exit status."""
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"the worker died of {name}{_MEANINGS.get(name, '')}"
    if code == STALLED:
        return "the worker ended itself, for it made no step within STALL_TIMEOUT"
    return f"the worker exited with status {code} without saying why"


def _digest(request: StartRequest) -> str:
    """What makes two requests the same; the seed that the server draws does not count."""
    return hashlib.sha256(json.dumps(asdict(request), sort_keys=True, default=str).encode()).hexdigest()
