"""Gymnasium environments behind both protocols: a simulator to train on, or an example to follow."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent import futures
from typing import Any, NoReturn

import grpc
import gymnasium
import numpy as np

from auxilium_rl.simulator.describing import EnvironmentFactory, contract_of, lanes_of, maker_of
from auxilium_rl.simulator.fast_lane import FastLaneServer
from auxilium_rl.simulator.observing import Observatory
from auxilium_rl.simulator.servicer import environment_service
from auxilium_rl.simulator.session import SessionHost
from auxilium_rl.wire.call_pool import CallPool
from auxilium_rl.wire.contract import Contract
from auxilium_rl.wire.frames import MAX_FRAME
from auxilium_rl.wire.spaces import counted_from_zero, leaves_of
from generated import simulation_pb2, simulation_pb2_grpc

__all__ = ["EnvironmentServer", "serve_env"]

_MAX_WATCHERS = 16
_OPTIONS = [
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", MAX_FRAME),
    ("grpc.max_send_message_length", MAX_FRAME),
    # A trainer whose machine vanished says no farewell; without this it would hold the lanes for hours.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
]


class _Gym:
    """One gym id: its environment while it is open, and what happened to it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.env: Any = None
        self.running = False
        self.steps = 0
        self.closes = 0

    def close(self) -> bool:
        """Close the environment; False when it was not open. The caller holds the lock."""
        if self.env is None:
            return False
        self.env.close()
        self.env, self.running = None, False
        return True


class EnvironmentServer(simulation_pb2_grpc.SimulationServiceServicer):
    """Serves one environment for each gym id.

    The first Reset of a gym id is seeded, zero included; later ones with seed 0 go on with the environment's own random
    stream, as ``gymnasium.Env.reset(seed=None)`` does. After Close a Reset opens the gym afresh.

    ``simulation.v2`` is answered on the same port, with environments of its own, one for each gym id. Environments
    whose spaces the unary protocol cannot carry are served by ``simulation.v2`` alone.

    Args:
        env: a Gymnasium id, or a callable that makes an environment, or a vector environment (which has its own lanes
            and is served by ``simulation.v2`` alone).
        gym_ids: the names that are served; any other is NOT_FOUND.
        host: an address of this machine; or ``unix:///path`` of a socket, and no port then.
        port: 0 takes a free one.
        fast_lane: ``unix:///path`` or ``tcp://127.0.0.1:port`` that ``simulation.v2`` offers; empty: none.
        lease: seconds that a ``simulation.v2`` session outlives its connection.
        version: the simulator's own, for its contract.
        render: make a Gymnasium id so that watchers can have frames.

    Raises:
        UnsupportedSpace: the spaces fit no protocol.
        ValueError: there are no gym ids, or one of them is empty or comes twice; a fast lane that is not accepted.
        OSError: the fast lane cannot be listened on.
    """

    def __init__(
        self,
        env: str | EnvironmentFactory,
        gym_ids: Sequence[str] = ("lane-0",),
        host: str = "127.0.0.1",
        port: int = 50062,
        *,
        fast_lane: str = "",
        lease: float = 60.0,
        version: str = "",
        render: bool = False,
    ) -> None:
        self._make = maker_of(env, render=render)
        if not gym_ids or "" in gym_ids or len(set(gym_ids)) != len(gym_ids):
            raise ValueError(f"gym ids {list(gym_ids)}: at least one is needed, and each must be unique and not empty")
        self._gyms = {gym_id: _Gym() for gym_id in gym_ids}
        self._host, self._wanted_port = host, port
        self.contract, pictures = contract_of(self._make, len(self._gyms), version)
        self.observation_dim, self.action_dim, self._first_action = _flat_shape(self.contract)
        self._host_of_sessions = SessionHost(lambda: lanes_of(self._make, self.contract.lanes), self.contract, lease)
        self._watchers = futures.ThreadPoolExecutor(_MAX_WATCHERS + 1, thread_name_prefix="watcher")
        self._host_of_sessions.observatory = Observatory(
            leaves_of(counted_from_zero(self.contract.observation)),
            self.contract.lanes,
            can_render=pictures,
            max_watchers=_MAX_WATCHERS,
        )
        self._fast_lane = FastLaneServer(self._host_of_sessions, fast_lane) if fast_lane else None
        if self._fast_lane is not None:
            self._host_of_sessions.data_plane = (self._fast_lane.address,)
        self._workers = CallPool(max(4, len(self._gyms)) + 2, "simulator")
        self._server: grpc.Server | None = None
        self.address = ""
        """Where it answers, once it does."""

    @property
    def gym_ids(self) -> tuple[str, ...]:
        """The names that are served."""
        return tuple(self._gyms)

    @property
    def closes(self) -> dict[str, int]:
        """How often each gym was closed."""
        return {gym_id: gym.closes for gym_id, gym in self._gyms.items()}

    @property
    def steps(self) -> dict[str, int]:
        """How many steps each gym took."""
        return {gym_id: gym.steps for gym_id, gym in self._gyms.items()}

    @property
    def session_steps(self) -> int:
        """How many steps all lanes took in ``simulation.v2``, over every session."""
        return self._host_of_sessions.steps

    def offer_fast_lane(self, *addresses: str) -> None:
        """Offer these addresses instead of the socket's own: behind a proxy, or in a container."""
        self._host_of_sessions.data_plane = addresses

    def start(self) -> int:
        """Begin to answer; gives the port, or 1 for a Unix socket. Raises OSError when it cannot be listened on."""
        server = grpc.server(
            self._workers,
            options=_OPTIONS,
        )
        if self.observation_dim:
            simulation_pb2_grpc.add_SimulationServiceServicer_to_server(self, server)
        server.add_generic_rpc_handlers((environment_service(self._host_of_sessions, self._watchers),))
        path = self._host.startswith("unix:///")
        wanted = self._host if path else f"{self._host}:{self._wanted_port}"
        try:
            port: int = server.add_insecure_port(wanted)
        except RuntimeError as error:
            reason = "the port is taken or the address is not of this machine"
            if path:
                reason = "its folder must be there and writable, and the path short enough for a socket"
            raise OSError(f"cannot listen on {wanted}: {reason}") from error
        server.start()
        self._server = server
        self.address = wanted if path else f"{self._host}:{port}"
        return port

    def wait(self) -> None:
        """Wait until ``stop`` was called."""
        if self._server is not None:
            self._server.wait_for_termination()

    def __enter__(self) -> EnvironmentServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self, grace: float | None = None) -> None:
        """End the server and close every environment."""
        if self._host_of_sessions.observatory is not None:
            self._host_of_sessions.observatory.close()
        if self._server is not None:
            self._server.stop(grace).wait()
        self._workers.shutdown()
        self._watchers.shutdown(wait=False)
        if self._fast_lane is not None:
            self._fast_lane.close()
        self._host_of_sessions.close()
        for gym in self._gyms.values():
            with gym.lock:  # a step that is under way ends first
                gym.close()

    def Reset(
        self, request: simulation_pb2.ResetRequest, context: grpc.ServicerContext
    ) -> simulation_pb2.ResetResponse:
        """Begin an episode."""
        gym = self._gym(request.gym_id, context)
        if request.seed < 0:
            _refuse(context, grpc.StatusCode.INVALID_ARGUMENT, f"seed {request.seed} given; 0 or more is accepted")
        with gym.lock:
            first = gym.env is None
            if gym.env is None:
                gym.env = self._make()
            seed = request.seed if first or request.seed else None
            observation, info = gym.env.reset(seed=seed)
            gym.running = True
            return simulation_pb2.ResetResponse(
                observation=np.asarray(observation, np.float32).tolist(), info=_text(info)
            )

    def Step(self, request: simulation_pb2.StepRequest, context: grpc.ServicerContext) -> simulation_pb2.StepResponse:
        """Advance by one step."""
        gym = self._gym(request.gym_id, context)
        with gym.lock:
            if gym.env is None or not gym.running:
                _refuse(
                    context, grpc.StatusCode.FAILED_PRECONDITION, f"gym '{request.gym_id}' needs a Reset before a Step"
                )
            if not 0 <= request.action < self.action_dim:
                _refuse(
                    context,
                    grpc.StatusCode.INVALID_ARGUMENT,
                    f"action {request.action} given; 0 to {self.action_dim - 1} are accepted",
                )
            observation, reward, terminated, truncated, info = gym.env.step(request.action + self._first_action)
            gym.steps += 1
            gym.running = not (terminated or truncated)
            return simulation_pb2.StepResponse(
                observation=observation.tolist(),
                reward=float(reward),
                terminated=bool(terminated),
                truncated=bool(truncated),
                info=_text(info) if info else None,
            )

    def Close(
        self, request: simulation_pb2.CloseRequest, context: grpc.ServicerContext
    ) -> simulation_pb2.CloseResponse:
        """Close a gym; closing it again is no error."""
        gym = self._gym(request.gym_id, context)
        with gym.lock:
            gym.closes += 1
            again = gym.closes > 1
            if gym.close():
                return simulation_pb2.CloseResponse(success=True, message="closed")
            return simulation_pb2.CloseResponse(success=True, message="already closed" if again else "was not open")

    def _gym(self, gym_id: str, context: grpc.ServicerContext) -> _Gym:
        gym = self._gyms.get(gym_id)
        if gym is None:
            _refuse(
                context,
                grpc.StatusCode.NOT_FOUND,
                f"gym '{gym_id:.80}' is not served here; these are: {'; '.join(self._gyms)}",
            )
        return gym


def _refuse(context: grpc.ServicerContext, code: grpc.StatusCode, message: str) -> NoReturn:
    context.abort(code, message)
    raise AssertionError("abort returned")


def _flat_shape(contract: Contract) -> tuple[int, int, int]:
    """Observation length, number of actions and first action of the unary protocol; zeros when it cannot carry them."""
    observation, action = contract.observation, contract.action
    if (
        "partial_reset" not in contract.capabilities  # lanes that cannot be stepped one by one
        or not isinstance(observation, gymnasium.spaces.Box)
        or len(observation.shape) != 1
        or not np.issubdtype(observation.dtype, np.floating)
        or not isinstance(action, gymnasium.spaces.Discrete)
    ):
        return 0, 0, 0
    return int(observation.shape[0]), int(action.n), int(action.start)


def _text(info: dict[str, Any]) -> dict[str, str]:
    return {str(key): str(value) for key, value in info.items()}


def serve_env(
    env: str | EnvironmentFactory,
    lanes: int = 1,
    address: str = "127.0.0.1:50062",
    *,
    fast_lane: str = "",
    lease: float = 60.0,
    version: str = "",
    render: bool = False,
) -> EnvironmentServer:
    """Put an environment behind both protocols and, where it is named, the fast lane; it answers when this returns.

    Args:
        env: a Gymnasium id, or a callable that makes an environment.
        lanes: how many of them.
        address: ``host:port``; port 0 takes a free one, which ``EnvironmentServer.address`` tells. Or
            ``unix:///path`` of a socket, for trainers on this machine.

    Raises: as ``EnvironmentServer`` and its ``start``.
    """
    host, _, port = (address, "", "0") if address.startswith("unix:///") else address.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f"address {address!r}: host:port and unix:///path are accepted")
    server = EnvironmentServer(
        env,
        [f"lane-{number}" for number in range(lanes)],
        host,
        int(port),
        fast_lane=fast_lane,
        lease=lease,
        version=version,
        render=render,
    )
    server.start()
    return server
