"""Gymnasium environments behind ``simulation.SimulationService``: a simulator to train on, or an example to follow."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import grpc
import gymnasium
import numpy as np

from auxilium_rl.wire.call_pool import CallPool
from generated import simulation_pb2, simulation_pb2_grpc

__all__ = ["EnvironmentServer", "UnsupportedEnvironment"]

EnvironmentFactory = Callable[[], "gymnasium.Env[Any, Any]"]


class UnsupportedEnvironment(ValueError):
    """The environment's spaces do not fit the protocol: flat float observations and one discrete action."""


class _Gym:
    """One gym id: its environment while it is open, and what happened to it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.env: gymnasium.Env[Any, Any] | None = None
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

    Args:
        env: a Gymnasium id, or a callable that makes an environment.
        gym_ids: the names that are served; any other is NOT_FOUND.
        port: 0 takes a free one.

    Raises:
        UnsupportedEnvironment: the spaces do not fit the protocol.
        ValueError: there are no gym ids, or one of them is empty or comes twice.
    """

    def __init__(
        self,
        env: str | EnvironmentFactory,
        gym_ids: Sequence[str] = ("lane-0",),
        host: str = "127.0.0.1",
        port: int = 50062,
    ) -> None:
        self._make: EnvironmentFactory = (lambda: gymnasium.make(env)) if isinstance(env, str) else env
        if not gym_ids or "" in gym_ids or len(set(gym_ids)) != len(gym_ids):
            raise ValueError(f"gym ids {list(gym_ids)}: at least one is needed, and each must be unique and not empty")
        self._gyms = {gym_id: _Gym() for gym_id in gym_ids}
        self._host, self._wanted_port = host, port
        probe = self._make()
        self.observation_dim, self.action_dim, self._first_action = _shape_of(probe)
        probe.close()
        self._workers = CallPool(max(4, len(self._gyms)), "simulator")
        self._server: grpc.Server | None = None

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

    def start(self) -> int:
        """Begin to answer; gives the port. Raises OSError when the port is taken."""
        server = grpc.server(
            self._workers,
            options=[("grpc.so_reuseport", 0)],
        )
        simulation_pb2_grpc.add_SimulationServiceServicer_to_server(self, server)
        try:
            port: int = server.add_insecure_port(f"{self._host}:{self._wanted_port}")
        except RuntimeError as error:
            raise OSError(
                f"cannot listen on {self._host}:{self._wanted_port}: "
                "the port is taken or the address is not of this machine"
            ) from error
        server.start()
        self._server = server
        return port

    def wait(self) -> None:
        """Wait until ``stop`` was called."""
        if self._server is not None:
            self._server.wait_for_termination()

    def stop(self, grace: float | None = None) -> None:
        """End the server and close every environment."""
        if self._server is not None:
            self._server.stop(grace).wait()
        self._workers.shutdown()
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


def _shape_of(env: gymnasium.Env[Any, Any]) -> tuple[int, int, int]:
    """Observation length, number of actions, first action."""
    observation, action = env.observation_space, env.action_space
    if (
        not isinstance(observation, gymnasium.spaces.Box)
        or len(observation.shape) != 1
        or not np.issubdtype(observation.dtype, np.floating)
        or not isinstance(action, gymnasium.spaces.Discrete)
    ):
        raise UnsupportedEnvironment(
            f"observations {observation} and actions {action}: "
            "the simulation protocol takes a flat Box of floats and a Discrete"
        )
    return int(observation.shape[0]), int(action.n), int(action.start)


def _text(info: dict[str, Any]) -> dict[str, str]:
    return {str(key): str(value) for key, value in info.items()}
