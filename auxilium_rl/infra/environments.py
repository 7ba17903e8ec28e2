"""From an ``EnvironmentSource`` to its lanes. Only workers import this."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import grpc
import gymnasium

from auxilium_rl.core.dto import EnvironmentSource
from auxilium_rl.core.errors import InvalidRequest, SimulatorError
from auxilium_rl.core.lanes import LanePort, Patience, SessionMemory
from auxilium_rl.infra.config import Settings
from auxilium_rl.infra.external_env_adapter import AdapterLanes, ExternalEnvAdapter, FakeExternalEnvAdapter
from auxilium_rl.infra.gymnasium_lanes import CheckedGymLanes
from auxilium_rl.infra.session.connection import Connection
from auxilium_rl.infra.session.group import GatewayAddress, open_attached
from auxilium_rl.infra.session.lanes import SessionLanes
from auxilium_rl.infra.session.links import StreamLink
from auxilium_rl.infra.source_rules import source_refusal, unix_path
from auxilium_rl.infra.unary_simulator import UnarySimulator, await_ready, open_channel
from auxilium_rl.wire.contract import GENERATION
from auxilium_rl.wire.spaces import UnsupportedSpace
from generated.simulation.v2 import simulation_pb2, simulation_pb2_grpc

__all__ = ["AdapterFactory", "open_lanes"]

AdapterFactory = Callable[..., ExternalEnvAdapter]


def open_lanes(
    source: EnvironmentSource,
    settings: Settings,
    patience: Patience,
    factory: AdapterFactory | None = None,
    experiment_id: str = "",
    gateway: GatewayAddress | None = None,
    memory: SessionMemory | None = None,
) -> LanePort:
    """Open the lanes of a run.

    Args:
        memory: of the session that an earlier worker of this run had.

    Raises:
        InvalidRequest: the source cannot be trained on; says why.
        EnvironmentLost: the simulator cannot be reached.
        SimulatorError: it refuses.
        ContractViolation: its contract cannot be trained on.
    """
    scheme, _, rest = source.uri.partition(":")
    if refusal := source_refusal(source.uri, settings):
        raise InvalidRequest.of("environment.uri", f"'{source.uri}' given; {refusal}")
    if scheme in {"grpc", "unix"}:
        if source.gym_ids:
            return _unary(source, settings)
        return _session(source, settings, patience, experiment_id, memory)
    if scheme == "attached" and gateway is not None:
        return open_attached(source, settings, patience, gateway)
    if scheme == "dm_env_rpc":
        return _dm_env_rpc(rest.removeprefix("//"), source.lanes, settings)
    if scheme == "gym":
        return _gym_lanes(rest, source.lanes)
    return _in_process(source, factory)


def _in_process(source: EnvironmentSource, factory: AdapterFactory | None) -> LanePort:
    shape = (source.observation_dim, source.action_dim)
    if source.uri == "adapter" and factory is not None:
        names = source.gym_ids or tuple(f"lane-{n}" for n in range(source.lanes))
        return AdapterLanes([_adapt(factory, name) for name in names], *shape)
    if source.uri == "fake":
        return AdapterLanes([FakeExternalEnvAdapter(*shape, source.max_steps) for _ in range(source.lanes)], *shape)
    raise InvalidRequest.of("environment", f"{source.uri!r} cannot be opened here")


def _unary(source: EnvironmentSource, settings: Settings) -> LanePort:
    return UnarySimulator(
        _target(source.uri),
        source.gym_ids,
        source.observation_dim,
        source.action_dim,
        connect_timeout=settings.sim_connect_timeout,
        reset_timeout=settings.sim_reset_timeout,
        step_timeout=settings.sim_step_timeout,
    )


def _session(
    source: EnvironmentSource, settings: Settings, patience: Patience, experiment_id: str, memory: SessionMemory | None
) -> LanePort:
    """``simulation.v2``, after asking whether the simulator has it."""
    address = _target(source.uri)
    channel = open_channel(address)
    await_ready(channel, address, settings.sim_connect_timeout)
    _describe(channel, address, settings.sim_connect_timeout)
    connection = Connection(
        address,
        lambda: StreamLink(channel),
        patience,
        connect_timeout=settings.sim_connect_timeout,
        fast_lane=settings.sim_fast_lane,
        anywhere=settings.sim_fast_lane_anywhere,
        experiment_id=experiment_id,
        memory=memory,
    )
    return SessionLanes(connection, step_timeout=settings.sim_step_timeout, reset_timeout=settings.sim_reset_timeout)


def _describe(channel: grpc.Channel, address: str, timeout: float) -> None:
    """Ask a simulator what it is, so that one which speaks the unary protocol only is told apart."""
    stub = simulation_pb2_grpc.EnvironmentServiceStub(channel)
    try:
        stub.Describe(simulation_pb2.Hello(generation=GENERATION), timeout=timeout)
    except grpc.RpcError as error:
        failed: grpc.Call = error
        if failed.code() == grpc.StatusCode.UNIMPLEMENTED:
            raise InvalidRequest.of(
                "environment.gym_ids",
                f"none given, but the simulator at {address} speaks the unary protocol only, "
                "which needs one gym id for each lane",
            ) from error
        raise SimulatorError(
            f"the simulator at {address} answered Describe with {failed.code().name}: {failed.details()}"
        ) from error


def _target(uri: str) -> str:
    """What gRPC dials: ``host:port``, or ``unix:/path``."""
    return uri.removeprefix("grpc://") if uri.startswith("grpc://") else f"unix:{unix_path(uri).resolve()}"


def _adapt(factory: AdapterFactory, gym_id: str) -> ExternalEnvAdapter:
    """Call a factory with the gym id, or with nothing when it takes nothing."""
    try:
        inspect.signature(factory).bind(gym_id)
    except TypeError:
        return factory()
    return factory(gym_id)


def _dm_env_rpc(address: str, lanes: int, settings: Settings) -> LanePort:
    from auxilium_rl.infra.dm_env_rpc_lanes import DmEnvRpc

    channel = open_channel(address)
    await_ready(channel, address, settings.sim_connect_timeout)

    def make() -> DmEnvRpc:
        return DmEnvRpc(
            address,
            channel,
            connect_timeout=settings.sim_connect_timeout,
            step_timeout=settings.sim_step_timeout,
            reset_timeout=settings.sim_reset_timeout,
        )

    return CheckedGymLanes(make, lanes)


def _gym_lanes(env_id: str, lanes: int) -> LanePort:
    try:
        return CheckedGymLanes(lambda: gymnasium.make(env_id, disable_env_checker=True), lanes)
    except UnsupportedSpace as refused:
        raise InvalidRequest.of("environment", f"'{env_id}' cannot be trained on: {refused}") from refused
    except gymnasium.error.DependencyNotInstalled as missing:
        raise InvalidRequest.of("environment", f"'{env_id}' needs what the server lacks: {missing}") from missing
