"""``auxilium.v1.RunService``: Auxilium's own API over runs. Errors are status codes with details."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

import grpc

from auxilium_rl.core.attachments import AttachedInfo
from auxilium_rl.core.dto import Run
from auxilium_rl.core.errors import AuxiliumError, InvalidRequest
from auxilium_rl.core.feed import RunFeed
from auxilium_rl.core.housekeeping import Housekeeping, Retention
from auxilium_rl.core.hyperparameters import ALGORITHMS
from auxilium_rl.core.lineage import Lineage
from auxilium_rl.core.training import TrainingOrchestrator
from auxilium_rl.transport.convert import (
    algorithm_message,
    changes_of,
    garbage_message,
    metric_message,
    run_message,
    start_request,
    states_of,
)
from auxilium_rl.transport.errors import abort, answers_with_status
from auxilium_rl.transport.trainer_servicer import idempotency_key_of
from generated.auxilium.v1 import runs_pb2 as pb
from generated.auxilium.v1 import runs_pb2_grpc

__all__ = ["RunServicer"]

_MAX_PAGE = 1000


class RunServicer(runs_pb2_grpc.RunServiceServicer):
    """Answers the SDK and the command line.

    Args:
        tensorboard_dir: where a run's event files lie.
        simulators: who is attached to a run.
    """

    def __init__(
        self,
        orchestrator: TrainingOrchestrator,
        feed: RunFeed,
        tensorboard_dir: Callable[[str], str],
        simulators: Callable[[str], Sequence[AttachedInfo]],
        lineage: Lineage,
        housekeeping: Housekeeping,
    ) -> None:
        self._orchestrator = orchestrator
        self._lineage, self._housekeeping = lineage, housekeeping
        self._registry = orchestrator.registry
        self._feed = feed
        self._tensorboard_dir = tensorboard_dir
        self._simulators = simulators

    def _message(self, run: Run) -> pb.Run:
        return run_message(run, self._tensorboard_dir(run.run_id), self._simulators(run.run_id))

    @answers_with_status
    def StartRun(self, request: pb.StartRunRequest, context: grpc.ServicerContext) -> pb.Run:
        """Take a run in."""
        key = request.idempotency_key or idempotency_key_of(context)
        run = self._orchestrator.submit(start_request(request), key)
        return self._message(run)

    @answers_with_status
    def GetRun(self, request: pb.GetRunRequest, context: grpc.ServicerContext) -> pb.Run:
        """One run."""
        return self._message(self._registry.get(request.run_id))

    @answers_with_status
    def ListRuns(self, request: pb.ListRunsRequest, context: grpc.ServicerContext) -> pb.ListRunsResponse:
        """A page of runs."""
        if not 0 <= request.page_size <= _MAX_PAGE:
            raise InvalidRequest.of(
                "page_size", f"{request.page_size} given; 1 to {_MAX_PAGE}, or 0 for 50, is accepted"
            )
        page = self._registry.list(
            page_size=request.page_size or 50,
            page_token=request.page_token,
            states=states_of(list(request.states)),
            experiment_id=request.experiment_id,
            algorithm=request.algorithm,
            parent_run_id=request.parent_run_id,
        )
        runs = [self._message(run) for run in page.runs]
        return pb.ListRunsResponse(runs=runs, next_page_token=page.next_page_token)

    def WatchRun(self, request: pb.WatchRunRequest, context: grpc.ServicerContext) -> Iterator[pb.RunEvent]:
        """Follow a run until it ends."""
        alive = threading.Event()
        alive.set()

        def gone() -> None:
            alive.clear()
            self._feed.wake()

        if not context.add_callback(gone):
            return
        try:
            for update in self._feed.watch(request.run_id, request.after_metric_id, alive):
                event = pb.RunEvent(metrics=[metric_message(point) for point in update.metrics])
                if update.run is not None:
                    event.run.CopyFrom(self._message(update.run))
                yield event
        except AuxiliumError as error:
            abort(context, error)

    @answers_with_status
    def StopRun(self, request: pb.StopRunRequest, context: grpc.ServicerContext) -> pb.Run:
        """Ask a run to stop."""
        run = self._orchestrator.stop_run(request.run_id, immediate=request.immediate)
        return self._message(run)

    @answers_with_status
    def PauseRun(self, request: pb.PauseRunRequest, context: grpc.ServicerContext) -> pb.Run:
        """Ask a run to pause."""
        return self._message(self._orchestrator.pause_run(request.run_id))

    @answers_with_status
    def ResumeRun(self, request: pb.ResumeRunRequest, context: grpc.ServicerContext) -> pb.Run:
        """Let a paused run go on."""
        return self._message(self._orchestrator.resume_run(request.run_id))

    @answers_with_status
    def RetryRun(self, request: pb.RetryRunRequest, context: grpc.ServicerContext) -> pb.Run:
        """Try a run again."""
        key = request.idempotency_key or idempotency_key_of(context)
        run = self._lineage.retry(request.run_id, changes_of(request), from_start=request.from_start, key=key)
        return self._message(run)

    @answers_with_status
    def ExtendRun(self, request: pb.ExtendRunRequest, context: grpc.ServicerContext) -> pb.Run:
        """Train longer."""
        key = request.idempotency_key or idempotency_key_of(context)
        more = request.additional_timesteps
        return self._message(self._lineage.extend(request.run_id, more, changes_of(request), key=key))

    @answers_with_status
    def CloneRun(self, request: pb.CloneRunRequest, context: grpc.ServicerContext) -> pb.Run:
        """Begin with another run's weights."""
        key = request.idempotency_key or idempotency_key_of(context)
        return self._message(self._lineage.clone(request.run_id, changes_of(request), key=key))

    @answers_with_status
    def DeleteRun(self, request: pb.DeleteRunRequest, context: grpc.ServicerContext) -> pb.DeleteRunResponse:
        """Forget a run."""
        return pb.DeleteRunResponse(bytes_freed=self._lineage.delete(request.run_id))

    @answers_with_status
    def CollectGarbage(
        self, request: pb.CollectGarbageRequest, context: grpc.ServicerContext
    ) -> pb.CollectGarbageResponse:
        """Delete what nobody wants to keep."""
        retention = Retention(request.older_than_seconds, request.keep_last, request.keep_best)
        removed = self._housekeeping.collect(retention, dry_run=request.dry_run)
        return pb.CollectGarbageResponse(removed=[garbage_message(found) for found in removed])

    @answers_with_status
    def ListAlgorithms(
        self, request: pb.ListAlgorithmsRequest, context: grpc.ServicerContext
    ) -> pb.ListAlgorithmsResponse:
        """Every algorithm."""
        return pb.ListAlgorithmsResponse(algorithms=[algorithm_message(info) for info in ALGORITHMS.values()])
