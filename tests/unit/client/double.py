"""A real gRPC server whose answers a test decides, for the SDK and the command line."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent import futures
from contextlib import contextmanager
from typing import Any

import grpc
from google.protobuf import any_pb2, struct_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from generated import policy_trainer_pb2, policy_trainer_pb2_grpc
from generated.auxilium.v1 import runs_pb2 as pb
from generated.auxilium.v1 import runs_pb2_grpc

RUN_ID = "0123456789abcdef0123456789abcdef"


class Refusal(Exception):
    """An answer that is an error."""

    def __init__(
        self, code: grpc.StatusCode, message: str, *, reason: str = "", fields: Sequence[tuple[str, str]] = ()
    ) -> None:
        self.code, self.message, self.reason, self.fields = code, message, reason, fields

    def end(self, context: grpc.ServicerContext) -> None:
        details = []
        if self.fields:
            violations = [error_details_pb2.BadRequest.FieldViolation(field=f, description=d) for f, d in self.fields]
            details.append(error_details_pb2.BadRequest(field_violations=violations))
        if self.reason:
            details.append(error_details_pb2.ErrorInfo(reason=self.reason, domain="auxilium"))
        packed = []
        for detail in details:
            packed.append(any_pb2.Any())
            packed[-1].Pack(detail)
        if not packed:
            context.abort(self.code, self.message)
        code = code_pb2.Code.Value(self.code.name)
        context.abort_with_status(
            rpc_status.to_status(status_pb2.Status(code=code, message=self.message, details=packed))
        )


def run_message(state: str = "RUNNING", **fields: Any) -> pb.Run:
    values = {"run_id": RUN_ID, "experiment_id": "e", "algorithm": "ppo", "total_timesteps": 100, **fields}
    return pb.Run(state=pb.RunState.Value(f"RUN_STATE_{state}"), **values)


def status_event(state: str = "RUNNING", **fields: Any) -> pb.RunEvent:
    return pb.RunEvent(run=run_message(state, **fields))


def metric_event(*ids: int, key: str = "rollout/ep_rew_mean") -> pb.RunEvent:
    return pb.RunEvent(metrics=[pb.Metric(id=i, key=key, step=10 * i, value=float(i)) for i in ids])


class Double(runs_pb2_grpc.RunServiceServicer, policy_trainer_pb2_grpc.PolicyTrainerServiceServicer):
    """Answers in turn what ``answers`` has for a method, then as a small server would; keeps every request.

    Attributes:
        streams: what one WatchRun after another sends; a Refusal ends the stream, an Event is waited for.
    """

    def __init__(self) -> None:
        self.runs = {RUN_ID: run_message()}
        self.answers: dict[str, list[Any]] = {}
        self.streams: list[list[Any]] = []
        self.requests: list[Any] = []
        self._waits: list[threading.Event] = []
        self.health = health.HealthServicer(experimental_non_blocking=True)
        self.health.set("", health_pb2.HealthCheckResponse.SERVING)
        self.health.set("down", health_pb2.HealthCheckResponse.NOT_SERVING)

    def sent(self, kind: type) -> list[Any]:
        """The requests of one kind."""
        return [request for request in self.requests if isinstance(request, kind)]

    def release(self) -> None:
        """End every wait."""
        for event in self._waits:
            event.set()

    def _wait(self, event: threading.Event) -> None:
        self._waits.append(event)
        event.wait(20)

    def _answer(self, method: str, request: Any, context: grpc.ServicerContext) -> Any:
        self.requests.append(request)
        waiting = self.answers.get(method)
        answer = waiting.pop(0) if waiting else None
        if isinstance(answer, threading.Event):
            self._wait(answer)
            answer = None
        if isinstance(answer, Refusal):
            answer.end(context)
        return answer

    def _run(self, run_id: str, context: grpc.ServicerContext) -> pb.Run:
        if run_id not in self.runs:
            Refusal(grpc.StatusCode.NOT_FOUND, f"Run '{run_id}' not found", reason="RUN_NOT_FOUND").end(context)
        return self.runs[run_id]

    def StartRun(self, request: pb.StartRunRequest, context: grpc.ServicerContext) -> pb.Run:
        return self._answer("StartRun", request, context) or self.runs[RUN_ID]

    def GetRun(self, request: pb.GetRunRequest, context: grpc.ServicerContext) -> pb.Run:
        return self._answer("GetRun", request, context) or self._run(request.run_id, context)

    def StopRun(self, request: pb.StopRunRequest, context: grpc.ServicerContext) -> pb.Run:
        return self._answer("StopRun", request, context) or self._run(request.run_id, context)

    def ListRuns(self, request: pb.ListRunsRequest, context: grpc.ServicerContext) -> pb.ListRunsResponse:
        return self._answer("ListRuns", request, context) or pb.ListRunsResponse(runs=list(self.runs.values()))

    def ListAlgorithms(self, request: Any, context: grpc.ServicerContext) -> pb.ListAlgorithmsResponse:
        hyperparameter = pb.Hyperparameter(
            name="n_steps",
            type="int",
            default=struct_pb2.Value(number_value=2048),
            meaning="Steps of a rollout.",
            accepted="1 or more",
        )
        algorithms = [
            pb.Algorithm(name="ppo", title="Proximal Policy Optimization", hyperparameters=[hyperparameter]),
            pb.Algorithm(name="dqn", title="Deep Q-Network"),
        ]
        return self._answer("ListAlgorithms", request, context) or pb.ListAlgorithmsResponse(algorithms=algorithms)

    def Act(self, request: Any, context: grpc.ServicerContext) -> policy_trainer_pb2.ActResponse:
        answer = self._answer("Act", request, context)
        return answer or policy_trainer_pb2.ActResponse(action=len(request.observation), success=True)

    def WatchRun(self, request: pb.WatchRunRequest, context: grpc.ServicerContext) -> Iterator[pb.RunEvent]:
        self._answer("WatchRun", request, context)
        run = self._run(request.run_id, context)
        script = self.streams.pop(0) if self.streams else [pb.RunEvent(run=run), pb.RunEvent(run=run)]
        for item in script:
            if isinstance(item, Refusal):
                item.end(context)
            if isinstance(item, threading.Event):
                self._wait(item)
            else:
                yield item


@contextmanager
def listening(double: Double, port: int = 0) -> Iterator[int]:
    """A server of ``double``; gives its port."""
    pool = futures.ThreadPoolExecutor(8)
    server = grpc.server(pool, options=[("grpc.so_reuseport", 0)])
    runs_pb2_grpc.add_RunServiceServicer_to_server(double, server)
    policy_trainer_pb2_grpc.add_PolicyTrainerServiceServicer_to_server(double, server)
    health_pb2_grpc.add_HealthServicer_to_server(double.health, server)
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    try:
        yield bound
    finally:
        stopped = server.stop(None)
        double.release()
        stopped.wait()
        pool.shutdown(wait=False)
