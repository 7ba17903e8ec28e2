"""What core needs from the outside, as Protocols. ``infra`` implements them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from auxilium_rl.core.attachments import AttachedInfo, Introduction
from auxilium_rl.core.dto import (
    Checkpoint,
    EnvironmentSource,
    EnvironmentSpec,
    GymClose,
    MetricPoint,
    Run,
    RunPage,
    RunSpec,
)
from auxilium_rl.core.policies import (
    Criterion,
    Episode,
    Evaluation,
    NewVersion,
    Policy,
    PolicyFile,
    PolicyPage,
    PolicyVersion,
)
from auxilium_rl.core.states import RunState
from auxilium_rl.inference.batches import MODE, Acted, Action, ActRequest, FlatBatch, FlatWish

__all__ = [
    "STALLED",
    "ActionModel",
    "Evaluator",
    "Executor",
    "MetricStore",
    "ModelStore",
    "PolicyRegistry",
    "PolicyStore",
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


class PolicyRegistry(Protocol):
    """Policies, their versions, aliases and evaluations. Every method is one transaction.

    Raises (all methods): StoreUnavailable when the database cannot be used.
    """

    def change(self) -> int:
        """A number that rises with every change of a policy."""

    def find(self, name: str, reference: str = "") -> PolicyVersion:
        """The version that a number or alias means; empty: ``latest``. Without evaluations. Raises PolicyNotFound."""

    def get(self, name: str) -> Policy:
        """Raises PolicyNotFound."""

    def list(self, *, page_size: int = 50, page_token: str = "", tags: Mapping[str, str] | None = None) -> PolicyPage:
        """By name; those that have all ``tags``. Without evaluations."""

    def paths(self) -> Collection[str]:
        """The folder of every version."""

    def publish(self, new: NewVersion, epoch: int | None = None) -> PolicyVersion | None:
        """Make a version, and ``latest`` point to it: number 0 for the weights of a new policy before their first
        update, else the next one from 1. What was published of a run's checkpoint before stays as it was then.

        Args:
            epoch: of the worker that publishes. None comes back when its lease is lost.

        Raises:
            InvalidRequest: the policy's versions have another contract.
        """

    def set_alias(self, name: str, alias: str, version: int) -> Policy:
        """Move an alias, or make it. Raises PolicyNotFound."""

    def delete_alias(self, name: str, alias: str) -> Policy:
        """Raises PolicyNotFound."""

    def delete_version(self, name: str, version: int) -> PolicyVersion:
        """Forget a version; its number is never used again. Raises PolicyNotFound, VersionInUse (by an alias)."""

    def delete(self, name: str) -> Policy:
        """Forget a policy with all its versions; gives what it was. Raises PolicyNotFound."""

    def update(
        self,
        name: str,
        *,
        set_tags: Mapping[str, str],
        remove_tags: Collection[str],
        notes: str | None,
        criterion: Criterion | None,
    ) -> Policy:
        """Change what is not None or empty; another criterion moves ``best``. Raises PolicyNotFound."""

    def add_evaluation(
        self, name: str, version: int, evaluation: Evaluation, held: tuple[str, int] | None = None
    ) -> Evaluation | None:
        """Keep an evaluation, and move ``best``. Raises PolicyNotFound.

        Args:
            held: the run and the lease's epoch of the worker that evaluated. None comes back when its lease is lost.
        """


class PolicyStore(Protocol):
    """Where the files of versions lie."""

    def put(self, name: str, files: Mapping[str, bytes], about: Mapping[str, object]) -> StoredFiles:
        """Keep files in a new folder, all or none. Raises StoreUnavailable."""

    def read(self, version: PolicyVersion, name: str) -> bytes:
        """A file of a version, its hash checked. Raises ModelCorrupt, StoreUnavailable."""

    def remove(self, path: str) -> int:
        """Remove a folder that ``put`` made; gives the bytes that were freed."""

    def strays(self, recorded: Collection[str], age: float) -> Sequence[tuple[str, int]]:
        """Path and bytes of every folder that is not ``recorded`` and older than ``age`` seconds."""


class Evaluator(Protocol):
    """Plays episodes somewhere where nobody is disturbed."""

    def episodes(
        self,
        files: tuple[bytes, bytes],
        environment: EnvironmentSource,
        wanted: dict[str, object],
        alive: threading.Event,
    ) -> Iterator[Episode]:
        """Each episode as it ends.

        Args:
            files: ``policy.onnx`` and ``policy.json``.
            wanted: the fields of ``core.evaluating.Wanted``.
            alive: cleared when the caller has gone; then ``look``.

        Raises:
            StreamsExhausted: as many evaluations go on as may.
            InvalidRequest: the environment cannot be opened, or is not the policy's.
            EvaluationFailed: the simulator or the process failed in the middle.
        """

    def look(self, alive: threading.Event) -> None:
        """The caller who had given ``alive`` has gone: end its evaluation."""


@dataclass(frozen=True)
class StoredFiles:
    """What ``PolicyStore.put`` made."""

    path: str
    manifest_sha256: str
    files: tuple[PolicyFile, ...]


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


class ActionModel(Protocol):
    """A loaded policy.

    Attributes:
        observation_dim: numbers in one observation.
        remembers: whether it takes and gives a state.
        size: bytes of its graph.
        description: ``policy.json``.
    """

    observation_dim: int
    remembers: bool
    size: int
    description: dict[str, Any]

    def act(
        self, observation: Sequence[float], state: bytes = b"", mask: Sequence[bool] = (), keys: Sequence[str] = ()
    ) -> Action:
        """The deterministic action for one observation of ``observation_dim`` finite numbers.

        Args:
            state: of the answer before; empty: an episode begins.
            mask: the legal actions; empty: all.
            keys: of a Dict, its leaves in the order given; empty: in the simulator's order.

        Raises:
            Refused: a number, state or mask that this policy cannot take.
        """

    def act_flat(self, batch: FlatBatch, wish: FlatWish = MODE) -> Acted:
        """Actions for many observations.

        Raises:
            Refused: a number, state or mask that this policy cannot take, or a wish it cannot fulfil.
        """

    def act_rows(self, request: ActRequest) -> tuple[bytes, Acted]:
        """Actions for observations as the simulator sends them: one slab, and what else was wished (without actions).

        Raises:
            Refused: as ``act_flat``; bytes that are no such observations; another contract.
            Unfit: it was made by a release whose policies act through ``act`` only.
        """
