"""What core needs from the outside, as Protocols. ``infra`` implements them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from auxilium_rl.core.attachments import AttachedInfo, Introduction
from auxilium_rl.core.dto import (
    Checkpoint,
    EnvironmentSpec,
    GymClose,
    MetricPoint,
    Run,
    RunPage,
    RunSpec,
)
from auxilium_rl.core.states import RunState

__all__ = [
    "STALLED",
    "Executor",
    "MetricStore",
    "ModelStore",
    "RunRegistry",
    "SimulatorGateway",
    "SimulatorStream",
    "WorkerExit",
]


STALLED = 5
"""The exit code of a worker that ended itself because it made no step for too long."""


class RunRegistry(Protocol):
    """Runs, their states, checkpoints, negotiated specs and owed Closes. Every method is one transaction.

    Raises (all methods): StoreUnavailable when the database cannot be used.
    """

    def put_negotiated(self, experiment_id: str, spec: EnvironmentSpec) -> None:
        """Remember the spec of an experiment; a later one replaces it."""

    def negotiated(self, experiment_id: str) -> EnvironmentSpec | None:
        """The spec last negotiated for an experiment."""

    def create(
        self,
        run_id: str,
        spec: RunSpec,
        *,
        idempotency_key: str = "",
        request_digest: str = "",
        close_address: str = "",
        max_queued: int = 0,
        max_unfinished: int = 0,
        timesteps_done: int = 0,
    ) -> Run:
        """Store a new QUEUED run and the Closes its gyms will be owed: one for each of ``spec.environment.gym_ids``
        when ``close_address`` is given. With a key that is known and an equal digest: the run of then, unchanged.

        Raises:
            IdempotencyConflict: the key is known with another digest.
            QueueFull: ``max_queued`` (> 0) runs are QUEUED already.
            QuotaExceeded: ``max_unfinished`` (> 0) runs of this experiment have not ended.
        """

    def get(self, run_id: str) -> Run:
        """Raises RunNotFound."""

    def list(
        self,
        *,
        page_size: int = 50,
        page_token: str = "",
        states: Sequence[RunState] = (),
        experiment_id: str = "",
        algorithm: str = "",
        parent_run_id: str = "",
    ) -> RunPage:
        """Newest first. Raises InvalidRequest for a token this registry did not give."""

    def find_by_output_path(self, model_output_path: str) -> Run | None:
        """The run that finished last of those whose model was exported to this ``spec.model_output_path``."""

    def claim_next(self, owner: str, lease: float = 30.0) -> Run | None:
        """Take the oldest run that is QUEUED, or INTERRUPTED and due again, and whose gyms no earlier run still owes a
        first try of their Close: STARTING, attempt + 1, fruitless_attempts
        + 1, lease_epoch + 1, lease_owner, leased for ``lease`` seconds. None: nothing is to be run now.
        """

    def renew(self, run_id: str, epoch: int, lease: float) -> str | None:
        """Keep a worker's lease for another ``lease`` seconds from now, by the database's clock; gives
        ``stop_requested``. None: the lease is lost.
        """

    def silent(self) -> Sequence[tuple[str, int]]:
        """Id and epoch of every active run whose lease ran out. Waits for nobody's lock."""

    def expire_leases(self, reason: str) -> Sequence[Run]:
        """Make every active run whose lease ran out INTERRUPTED and due at once, epoch + 1; gives those runs."""

    def transition(
        self,
        run_id: str,
        target: RunState,
        *,
        epoch: int | None = None,
        reason: str = "",
        error_message: str = "",
        log_tail: str = "",
        exported_path: str = "",
        timesteps_done: int | None = None,
        retry_in: float = 0.0,
        forgiven: bool = False,
    ) -> bool:
        """Compare-and-set along an edge of ``states.EDGES``, and on ``lease_epoch`` when given.

        False: it was not legal from the state (or epoch) the run has now, and nothing was written. Sets started_at on
        the first RUNNING and finished_at on a terminal state; makes the run's owed Closes due on a terminal state;
        clears the lease on leaving the active states. An INTERRUPTED run is due again after ``retry_in`` seconds; when
        ``forgiven``, this attempt is not counted as fruitless. PAUSED is entered only while that is wished.
        """

    def report(
        self, run_id: str, epoch: int, *, timesteps_done: int, steps_per_second: float, engine: str = ""
    ) -> bool:
        """A worker's progress; never lowers timesteps_done. False: the lease is lost. Empty engine: unchanged."""

    def add_checkpoint(self, checkpoint: Checkpoint, epoch: int, forget: Collection[int] = ()) -> bool:
        """Record a checkpoint that the store holds (its commit point); but for the initial one, attempts were not
        fruitless. False: the lease is lost.

        Args:
            forget: timesteps of those that it outlives; their files may be removed afterwards.
        """

    def put_simulator_session(self, run_id: str, epoch: int, session: str) -> bool:
        """Note for the next worker how to come back to the simulator's session. False: the lease is lost."""

    def mark_corrupt(self, run_id: str, timesteps: int, reason: str) -> None:
        """A checkpoint turned out to be damaged: nobody uses it any more, and everybody can see why."""

    def request_stop(self, run_id: str, *, immediate: bool, exported_path: str = "") -> Run:
        """Note the wish; runs without a worker become STOPPED at once. Terminal runs stay. Raises RunNotFound.

        Args:
            exported_path: where the model of a run without a worker was exported.
        """

    def request_pause(self, run_id: str) -> Run:
        """Note the wish; runs without a worker become PAUSED at once. Raises RunNotFound, RunEnded."""

    def resume(self, run_id: str) -> Run:
        """A PAUSED run is QUEUED, at its old place; a wish to pause is taken back. Raises RunNotFound, RunEnded."""

    def delete(self, run_id: str) -> Run:
        """Forget a run that has ended, its metrics and checkpoints; Closes that are owed stay owed. Gives what it was.

        Raises:
            RunNotFound, RunNotEnded.
            RunInUse: an unfinished run was made of it.
        """

    def interrupt_orphans(self, owner: str, reason: str) -> Sequence[Run]:
        """Make every active run that an earlier owner of the same place held (``<place>:<incarnation>``) INTERRUPTED
        and due at once, epoch + 1, and hold no attempt against it; gives those runs as they are now.
        """

    def owe_closes(self, address: str, gym_ids: Iterable[str]) -> None:
        """Note Closes of a refused start; they are due at once."""

    def due_closes(self, limit: int = 100, hold: float = 60.0) -> Sequence[GymClose]:
        """Closes that are due and not done, whose next attempt has come, oldest first. Nobody else is given them for
        ``hold`` seconds.
        """

    def close_done(self, close_id: int, outcome: str) -> None:
        """A Close ended (``closed``, ``not_found`` or why it was given up); it is never due again."""

    def close_failed(self, close_id: int, error: str, retry_in: float) -> None:
        """A Close failed; due again after ``retry_in`` seconds."""

    def probe(self, patience: float = 30.0) -> None:
        """Really write and commit something. Raises StoreBusy when somebody else kept the database locked for
        ``patience`` seconds, StoreUnavailable.
        """

    def lock_holder(self) -> int | None:
        """The process of this machine that keeps all others from writing now; 0: none; None: it cannot be known. Waits
        for nobody's lock.
        """


class MetricStore(Protocol):
    """What the trainer logged, by run."""

    def append(self, run_id: str, epoch: int, points: Sequence[MetricPoint]) -> bool:
        """Store points; a (run, key, step) that is there already keeps its first value. NaN and infinities are kept.
        False: the lease is lost, and nothing was stored.
        """

    def since(self, run_id: str, after_id: int = 0, limit: int = 1000) -> Sequence[MetricPoint]:
        """Points with a greater id, in order of id."""


class ModelStore(Protocol):
    """Where models lie. Paths given and returned are absolute, with ``/``."""

    def put(self, run_id: str, timesteps: int, kind: str, write: Callable[[Path], None]) -> Checkpoint:
        """Store the files that ``write`` makes in an empty folder (``model.zip`` among them) as one checkpoint: written
        aside, fsynced, verified, hashed into ``manifest.json``, moved into place. Readers see all of it or nothing.

        Raises:
            StoreUnavailable: the disk is full or not writable; nothing is visible.
        """

    def read(self, checkpoint: Checkpoint, name: str) -> bytes:
        """The bytes of one file of a checkpoint, its hash checked. Raises ModelCorrupt, StoreUnavailable."""

    def names(self, checkpoint: Checkpoint) -> Sequence[str]:
        """The files of a checkpoint. Raises ModelCorrupt, StoreUnavailable."""

    def put_part(self, run_id: str, name: str, data: bytes) -> None:
        """Store bytes that several checkpoints of a run share, atomically, as ``put`` does. Raises StoreUnavailable."""

    def read_part(self, run_id: str, name: str, sha256: str) -> bytes:
        """What ``put_part`` stored, its hash checked. Raises ModelCorrupt, StoreUnavailable."""

    def keep_parts(self, run_id: str, names: Collection[str]) -> None:
        """Remove all other parts of a run."""

    def discard(self, checkpoint: Checkpoint) -> None:
        """Remove a checkpoint's files; nothing happens when there are none."""

    def remove_run(self, run_id: str) -> int:
        """Remove every file of a run but exported models; gives the bytes that were freed."""

    def run_ids(self) -> Sequence[str]:
        """The runs that have files here."""

    def strays(self, run_id: str, recorded: Collection[str] | None, age: float) -> Sequence[tuple[str, int]]:
        """Path and bytes of every checkpoint of a run that is not ``recorded`` and older than ``age`` seconds.

        Args:
            recorded: paths; None: there is no such run, and its whole folder is meant.
        """

    def remove_stray(self, path: str) -> None:
        """Remove what ``strays`` gave."""

    def size_of_run(self, run_id: str) -> int:
        """Bytes of the files of a run."""

    def export(self, checkpoint: Checkpoint, export_path: str) -> None:
        """Copy ``model.zip`` to ``export_path``, replacing atomically from a temporary file in another folder."""

    def export_target(self, model_output_path: str) -> str:
        """The absolute ``….zip`` that a caller's path means. Raises InvalidRequest when it leaves the export root."""

    def probe(self) -> None:
        """Really write, fsync and remove a file in every root. Raises StoreUnavailable."""


@dataclass(frozen=True)
class WorkerExit:
    """How a worker ended. ``exit_code`` is negative for a signal, as ``subprocess`` has it."""

    run_id: str
    epoch: int
    exit_code: int
    log_tail: str


class Executor(Protocol):
    """Runs workers. One worker for each (run, epoch)."""

    def start(self, on_exit: Callable[[WorkerExit], None]) -> None:
        """Make ready (warm up in the background). ``on_exit`` is called once for each worker, from a thread of ours."""

    def submit(self, run: Run) -> None:
        """Start a worker for a claimed run; returns at once. One that cannot be started ends in ``on_exit`` too."""

    def signal(self, run_id: str, command: str) -> None:
        """Tell a worker ``stop``, ``stop_now`` or ``interrupt``; nothing happens when it has gone."""

    def end(self, run_id: str, epoch: int) -> bool:
        """End one worker of ours at once. False: there is none, or no more."""

    def worker(self, pid: int) -> tuple[str, int] | None:
        """Run and epoch of the worker of ours that a process of this machine is; None: it is none."""

    def kill(self) -> None:
        """End every worker at once."""

    def close(self) -> None:
        """Kill what runs and give back every resource."""


class SimulatorStream(Protocol):
    """The stream of a simulator that dialled in; its messages are opaque."""

    def requests(self) -> Iterator[bytes]:
        """What is asked of it, until the stream ends."""

    def deliver(self, data: bytes) -> None:
        """An answer of the simulator."""

    def left(self) -> None:
        """The stream has ended; the simulator's lease begins. May come twice."""


class SimulatorGateway(Protocol):
    """Where simulators that dial in find their runs."""

    def attach(self, intro: Introduction, token: bytes, close_stream: Callable[[], None]) -> SimulatorStream:
        """Take a simulator in, or back. Raises AttachRefused and its kinds."""

    def simulators(self, run_id: str) -> Sequence[AttachedInfo]:
        """Who is attached to a run."""
