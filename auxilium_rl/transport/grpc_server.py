"""The gRPC server: which servicers it hosts, on which threads, with which limits."""

from __future__ import annotations

import socket
from collections.abc import Callable
from concurrent import futures
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from auxilium_rl.core.errors import StoreUnavailable
from auxilium_rl.core.ports import SimulatorGateway
from auxilium_rl.transport.act_server import listen_options
from auxilium_rl.transport.experience_servicer import ExperienceServicer
from auxilium_rl.transport.gateway_servicer import SERVICE as GATEWAY
from auxilium_rl.transport.gateway_servicer import gateway_service
from auxilium_rl.transport.health_servicer import HealthMonitor
from auxilium_rl.transport.inference_servicer import InferenceServicer
from auxilium_rl.transport.policy_servicer import PolicyServicer
from auxilium_rl.transport.run_servicer import RunServicer
from auxilium_rl.transport.trainer_servicer import TrainerServicer
from auxilium_rl.wire.call_pool import CallPool
from generated import policy_trainer_pb2_grpc
from generated.auxilium.v1 import experience_pb2_grpc, policies_pb2_grpc, runs_pb2_grpc
from generated.inference import open_inference_pb2_grpc

if TYPE_CHECKING:
    from auxilium_rl.core.training import TrainingOrchestrator

__all__ = ["SERVICES", "GrpcServer", "create_server"]

SERVICES = (
    "policy_trainer.PolicyTrainerService",
    "auxilium.v1.RunService",
    "auxilium.v1.PolicyService",
    "auxilium.v1.ExperienceService",
    "inference.GRPCInferenceService",
    GATEWAY,
)


class GrpcServer:
    """Hosts the servicers on one port.

    Unary calls have a pool of threads of their own; streams of each kind another, so that idle watchers cannot starve
    anybody; so do health's Watch streams (see ``HealthMonitor``).

    Args:
        shared: other processes of this server (``ActServer``) listen on the port too.

    Raises:
        StoreUnavailable: the port is taken (it is never shared in silence) or the address is not of this machine.
    """

    def __init__(
        self,
        trainer: TrainerServicer,
        runs: RunServicer,
        policies: PolicyServicer,
        inference: InferenceServicer,
        experience: ExperienceServicer,
        health: HealthMonitor,
        gateway: SimulatorGateway,
        *,
        host: str,
        port: int,
        max_workers: int,
        max_streams: int,
        max_act_streams: int,
        max_attached: int,
        max_agents: int,
        max_message_mb: int,
        shared: bool = False,
    ) -> None:
        limit = max_message_mb << 20
        self._pool = CallPool(max_workers, "rpc")
        self._streams = futures.ThreadPoolExecutor(max_streams + 1, thread_name_prefix="stream")
        self._following = futures.ThreadPoolExecutor(2 * max_streams, thread_name_prefix="policy-stream")
        self._server = grpc.server(
            self._pool,
            options=listen_options(limit, shared=shared),
        )
        self._acting = futures.ThreadPoolExecutor(max_act_streams + 1, thread_name_prefix="act-stream")
        _use(RunServicer, self._streams, "WatchRun")
        _use(PolicyServicer, self._following, "WatchPolicy", "Evaluate", "DownloadPolicy")
        self._agents = futures.ThreadPoolExecutor(max_agents + 1, thread_name_prefix="agent-stream")
        _use(PolicyServicer, self._acting, "ActStream")
        _use(ExperienceServicer, self._agents, "Push", "ReadExperience")
        experience_pb2_grpc.add_ExperienceServiceServicer_to_server(experience, self._server)
        policy_trainer_pb2_grpc.add_PolicyTrainerServiceServicer_to_server(trainer, self._server)
        runs_pb2_grpc.add_RunServiceServicer_to_server(runs, self._server)
        policies_pb2_grpc.add_PolicyServiceServicer_to_server(policies, self._server)
        open_inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(inference, self._server)
        self._server.add_generic_rpc_handlers((gateway_service(gateway, max_attached),))
        health_pb2_grpc.add_HealthServicer_to_server(health.servicer, self._server)
        reflection.enable_server_reflection((*SERVICES, "grpc.health.v1.Health", reflection.SERVICE_NAME), self._server)
        if shared and not _is_free(host, port):
            raise StoreUnavailable(f"cannot listen on {host}:{port}: the port is taken")
        try:
            self.port: int = self._server.add_insecure_port(f"{host}:{port}")
        except RuntimeError as error:
            raise StoreUnavailable(
                f"cannot listen on {host}:{port}: the port is taken or the address is not of this machine ({error})"
            ) from error

    def listen_aside(self, address: str) -> None:
        """Take calls at another address too; before ``start``. Raises StoreUnavailable."""
        try:
            self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise StoreUnavailable(f"cannot listen on {address}: {error}") from error

    def start(self) -> None:
        """Begin to answer."""
        self._server.start()

    def wait_for_termination(self, timeout: float | None = None) -> bool:
        """Wait until ``stop`` is through; False when ``timeout`` seconds passed before."""
        return not self._server.wait_for_termination(timeout)

    def stop(self, grace: float | None = None) -> None:
        """Take no new calls and wait up to ``grace`` seconds for those under way."""
        self._server.stop(grace).wait()
        self._pool.shutdown()
        for pool in (self._streams, self._following, self._acting, self._agents):
            pool.shutdown(wait=False, cancel_futures=True)


def _is_free(host: str, port: int) -> bool:
    """Whether nobody listens there. Where a port may be shared, the system would not say so itself."""
    if not port:
        return True
    try:
        socket.create_server((host, port), reuse_port=False).close()
    except OSError:
        return False
    return True


def _use(servicer: type, pool: futures.Executor, *methods: str) -> None:
    """Have streams served by threads of their own."""
    for method in methods:
        getattr(servicer, method).experimental_thread_pool = pool


def create_server(
    orchestrator: TrainingOrchestrator,
    config: Any,
    adapter_factory: Callable[..., Any] | None = None,
    *,
    model_store: Any = None,
) -> Any:
    """A server for a program that embeds the service.

    Args:
        orchestrator: ``TrainingOrchestrator(model_store, env_config, checkpoint_freq)``.
        config: a ``ServiceConfig``.
        adapter_factory: makes the environment of one lane, an ``ExternalEnvAdapter``; called with the gym id, or with
            nothing if it takes nothing. It runs in the worker processes. None: the in-memory test environment.
        model_store: instead of the orchestrator's own.

    Returns:
        An object with ``start()``, ``wait_for_termination()`` and ``stop(grace)``; ``port`` is the bound port.

    Raises:
        InvalidRequest: the factory cannot travel to another process.
        StoreUnavailable: a folder cannot be written, or the port is taken.
    """
    from auxilium_rl.app import embed

    return embed(orchestrator, config, adapter_factory, model_store=model_store)
