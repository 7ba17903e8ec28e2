"""The SDK's entry: a connection to one server."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

import grpc
import tenacity
from grpc_health.v1 import health_pb2, health_pb2_grpc

from auxilium_rl.client.agents import Agents
from auxilium_rl.client.errors import InvalidArgument, NotFound, translated
from auxilium_rl.client.policy import Policy
from auxilium_rl.client.policy_values import PolicyInfo, PolicyVersion
from auxilium_rl.client.run import Run
from auxilium_rl.client.start_request import start_request
from auxilium_rl.client.values import Algorithm, Garbage, RunStatus
from generated import policy_trainer_pb2_grpc
from generated.auxilium.v1 import experience_pb2_grpc, policies_pb2, policies_pb2_grpc, runs_pb2_grpc
from generated.auxilium.v1 import runs_pb2 as pb

__all__ = ["Client"]

_Answer = TypeVar("_Answer")
_GARBAGE_TIMEOUT = 600.0


class Client:
    """A connection to a server; a context manager.

    Args:
        address: ``host:port``.
        timeout: deadline of each call, in seconds.
        connect_timeout: how long to wait for a server that does not answer, in seconds.
    """

    def __init__(
        self, address: str = "127.0.0.1:50051", *, timeout: float = 10.0, connect_timeout: float = 30.0
    ) -> None:
        self.address, self.timeout, self.connect_timeout = address, timeout, connect_timeout
        self._channel = grpc.insecure_channel(
            address,
            options=[
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.max_reconnect_backoff_ms", 2000),
                ("grpc.enable_http_proxy", 0),
                ("grpc.keepalive_time_ms", 310_000),  # finds a dead peer; servers refuse pings under five minutes
                ("grpc.keepalive_timeout_ms", 20_000),
            ],
        )
        self.runs_stub: Any = runs_pb2_grpc.RunServiceStub(self._channel)
        self.trainer_stub: Any = policy_trainer_pb2_grpc.PolicyTrainerServiceStub(self._channel)
        self.policies_stub: Any = policies_pb2_grpc.PolicyServiceStub(self._channel)
        self.experience_stub: Any = experience_pb2_grpc.ExperienceServiceStub(self._channel)
        self._health: Any = health_pb2_grpc.HealthStub(self._channel)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the connection back."""
        self._channel.close()

    def train(
        self,
        algorithm: str,
        *,
        total_timesteps: int,
        env: str = "",
        experiment_id: str | None = None,
        gym_ids: Sequence[str] = (),
        lanes: int = 0,
        observation_dim: int = 0,
        action_dim: int = 0,
        max_steps: int = 0,
        min_lanes: int = 0,
        seed: int | None = None,
        hyperparameters: Mapping[str, Any] | None = None,
        model_output_path: str = "",
        checkpoint_freq: int = 0,
        policy: str = "",
        normalize: bool | Mapping[str, Any] = False,
        frame_stack: int = 0,
        max_memory_mb: int = 0,
        max_seconds: float = 0.0,
        policy_name: str = "",
        publish_checkpoints: bool = False,
        eval_freq: int = 0,
        eval_episodes: int = 0,
        eval_env: str = "",
        agents: Agents | None = None,
        idempotency_key: str | None = None,
    ) -> Run:
        """Start a run; it goes on whatever happens to this program.

        Args:
            env: ``gym:CartPole-v1``, ``grpc://host:port``, ``attached:<experiment id>``, ``dm_env_rpc://host:port``,
                ``unix:///path`` or ``fake``; empty: the server's default.
            experiment_id: groups runs; None: made of the algorithm and the time.
            gym_ids: names of the lanes, for simulators of the unary protocol.
            min_lanes: for ``attached:``, how many lanes training begins with.
            policy: ``MlpPolicy``, ``CnnPolicy`` or ``MultiInputPolicy``; empty: as the observations need it.
            normalize: True, or a map by the names of SB3's ``VecNormalize``.
            frame_stack: how many of the last observations the policy sees.
            max_memory_mb: MiB of resident memory above which the run fails; 0: no limit.
            max_seconds: time with a worker after which the run is stopped, its model saved; 0: no limit.
            policy_name: whose versions the run publishes; empty: its own id.
            publish_checkpoints: every checkpoint becomes a version; else the first weights and the last.
            eval_freq: timesteps between evaluations while it trains; 0: none.
            eval_episodes: episodes of each; 0: ten.
            eval_env: where; empty: another environment like that of training (``gym:`` and ``fake`` only).
            agents: of ``env="agents"``: what they see and do, and how that is learned from.
            hyperparameters: by their Stable-Baselines3 names.
            idempotency_key: the same key with the same request gives the same run; None: a fresh one.

        Raises:
            InvalidArgument: names every field at fault.
            ServerUnavailable: no server answered in time.
        """
        request = start_request(
            algorithm,
            env=env,
            total_timesteps=total_timesteps,
            experiment_id=experiment_id,
            gym_ids=gym_ids,
            lanes=lanes,
            observation_dim=observation_dim,
            action_dim=action_dim,
            max_steps=max_steps,
            min_lanes=min_lanes,
            seed=seed,
            hyperparameters=hyperparameters,
            model_output_path=model_output_path,
            checkpoint_freq=checkpoint_freq,
            policy=policy,
            normalize=normalize,
            frame_stack=frame_stack,
            max_memory_mb=max_memory_mb,
            max_seconds=max_seconds,
            policy_name=policy_name,
            publish_checkpoints=publish_checkpoints,
            eval_freq=eval_freq,
            eval_episodes=eval_episodes,
            eval_env=eval_env,
            idempotency_key=idempotency_key or uuid.uuid4().hex,
        )
        if agents is not None:
            agents.put_into(request)
        return Run(self, self.call(self.runs_stub.StartRun, request).run_id)

    def run(self, run_id: str) -> Run:
        """A run by its id. Raises NotFound."""
        run = Run(self, run_id)
        run.status()
        return run

    def runs(
        self, *, states: Sequence[str] = (), experiment_id: str = "", algorithm: str = "", page_size: int = 50
    ) -> Iterator[RunStatus]:
        """Every run that fits, newest first, page by page. Raises InvalidArgument for a state that is none."""
        names = [states] if isinstance(states, str) else states
        request = pb.ListRunsRequest(
            states=[_state(name) for name in names],
            experiment_id=experiment_id,
            algorithm=algorithm,
            page_size=page_size,
        )
        while True:
            page = self.call(self.runs_stub.ListRuns, request)
            yield from (RunStatus.of(run) for run in page.runs)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def policy(self, name: str) -> Policy:
        """A policy: ``name`` (its newest version), ``name@3``, ``name@best``, or a run's id. Asks nothing yet."""
        return Policy(self, name)

    def policies(self, *, tags: Mapping[str, str] | None = None, page_size: int = 50) -> Iterator[PolicyInfo]:
        """Every policy that has all ``tags``, by name, page by page; without evaluations."""
        request = policies_pb2.ListPoliciesRequest(page_size=page_size, tags=tags)
        while True:
            page = self.call(self.policies_stub.ListPolicies, request)
            yield from (PolicyInfo.of(policy) for policy in page.policies)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def publish(self, run_id: str, *, name: str = "", timesteps: int | None = None) -> PolicyVersion:
        """Make a version of a run's checkpoint.

        Args:
            name: of the policy; empty: the one that the run publishes.
            timesteps: of the checkpoint; None: the newest.
        """
        request = policies_pb2.PublishVersionRequest(run_id=run_id, name=name, timesteps=timesteps)
        return PolicyVersion.of(self.call(self.policies_stub.PublishVersion, request))

    def collect_garbage(
        self, *, older_than: float = 0.0, keep_last: int = 0, keep_best: int = 0, dry_run: bool = False
    ) -> list[Garbage]:
        """Delete files that belong to no run and, when one of the first three is given, ended runs.

        Args:
            older_than: only runs that ended as many seconds ago.
            keep_last: newest ended runs that stay of each experiment.
            keep_best: best ended runs that stay of each experiment.
            dry_run: delete nothing, only say what would go.

        Raises:
            InvalidArgument: a number below zero.
        """
        request = pb.CollectGarbageRequest(
            older_than_seconds=older_than, keep_last=keep_last, keep_best=keep_best, dry_run=dry_run
        )
        answer = self.call(self.runs_stub.CollectGarbage, request, timeout=_GARBAGE_TIMEOUT)
        return [Garbage(g.kind, g.run_id, g.path, g.bytes, g.why) for g in answer.removed]

    def algorithms(self) -> list[Algorithm]:
        """Every algorithm with its hyperparameters."""
        answer = self.call(self.runs_stub.ListAlgorithms, pb.ListAlgorithmsRequest())
        return [Algorithm.of(message) for message in answer.algorithms]

    def health(self, service: str = "") -> str:
        """``SERVING``, ``NOT_SERVING`` or ``SERVICE_UNKNOWN``."""
        try:
            answer = self.call(self._health.Check, health_pb2.HealthCheckRequest(service=service))
        except NotFound:
            return "SERVICE_UNKNOWN"
        return _serving(answer)

    def health_changes(self, service: str = "") -> Iterator[str]:
        """The health now and after every change, for as long as the server is there. Raises ServerUnavailable."""
        told = ""
        with translated(self.address):
            for answer in self._health.Watch(health_pb2.HealthCheckRequest(service=service)):
                if _serving(answer) != told:
                    told = _serving(answer)
                    yield told

    def call(
        self,
        method: Callable[..., _Answer],
        request: Any,
        patience: float | None = None,
        timeout: float | None = None,
    ) -> _Answer:
        """One call: with a deadline, and again with back-off while the server is not there or not ready.

        Only calls that may come twice are made here; StartRun carries an idempotency key.

        Args:
            patience: seconds to wait for the server; None: ``connect_timeout``.
            timeout: the deadline in seconds; None: the client's.

        Raises:
            ServerUnavailable: the server did not come in that time; says why.
        """
        patience = self.connect_timeout if patience is None else patience
        pause = tenacity.wait_exponential_jitter(multiplier=0.1, max=2.0, jitter=0.1)
        waiting = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_unavailable),
            wait=lambda state: min(pause(state), max(patience - (state.seconds_since_start or 0.0), 0.0)),
            stop=tenacity.stop_after_delay(patience),
            reraise=True,
        )
        with translated(self.address, patience):
            return waiting(method, request, timeout=self.timeout if timeout is None else timeout)


def _unavailable(error: BaseException) -> bool:
    """Whether a call may be made again: nobody answered, or a server that starts, ends or waits for its store did."""
    return isinstance(error, grpc.RpcError) and error.code() == grpc.StatusCode.UNAVAILABLE


def _serving(answer: health_pb2.HealthCheckResponse) -> str:
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def _state(name: str) -> pb.RunState.ValueType:
    try:
        return pb.RunState.Value(f"RUN_STATE_{name.upper()}")
    except ValueError:
        known = ", ".join(state.removeprefix("RUN_STATE_") for state, number in pb.RunState.items() if number)
        description = f"'{name:.80}' given; {known} are accepted"
        raise InvalidArgument(f"states: {description}", {"states": description}) from None
