"""The ``simulation`` protocol from the trainer's side: one unary call a lane and step, lanes concurrently."""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from auxilium_rl.core.errors import ContractViolation, EnvironmentLost, SimulatorError
from auxilium_rl.core.lanes import StepsWhenWaitedFor
from auxilium_rl.wire.rows import AnySpace, Start, Transition
from generated import simulation_pb2, simulation_pb2_grpc

__all__ = ["UnarySimulator", "await_ready", "open_channel"]

_CHANNEL_OPTIONS = [
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.enable_http_proxy", 0),
]


def open_channel(address: str) -> grpc.Channel:
    """A plaintext channel to a simulator, made for long calls and quick reconnects."""
    return grpc.insecure_channel(address, options=_CHANNEL_OPTIONS)


class UnarySimulator(StepsWhenWaitedFor):
    """Lanes behind ``simulation.SimulationService``; a ``LanePort``.

    Args:
        address: ``host:port``.
        gym_ids: one for each lane.
        connect_timeout, reset_timeout, step_timeout: seconds.

    Raises:
        EnvironmentLost: nothing that speaks gRPC answers at ``address`` within ``connect_timeout``.
    """

    def __init__(
        self,
        address: str,
        gym_ids: Sequence[str],
        observation_dim: int,
        action_dim: int,
        *,
        connect_timeout: float,
        reset_timeout: float,
        step_timeout: float,
    ) -> None:
        self.lanes = len(gym_ids)
        self.observation_space: AnySpace = spaces.Box(-np.inf, np.inf, (observation_dim,), np.float32)
        self.action_space: AnySpace = spaces.Discrete(action_dim)
        self.native_observation: AnySpace = self.observation_space
        self.native_action: AnySpace = self.action_space
        self.mask_len = 0
        self._observation_dim = observation_dim
        self._address, self._gym_ids = address, tuple(gym_ids)
        self._reset_timeout, self._step_timeout = reset_timeout, step_timeout
        self._channel = open_channel(address)
        await_ready(self._channel, address, connect_timeout)
        stub = simulation_pb2_grpc.SimulationServiceStub(self._channel)
        self._reset: Any = stub.Reset
        self._step: Any = stub.Step

    def reset(self, lanes: Sequence[int], seeds: Sequence[int | None]) -> Start:
        """See ``LanePort.reset``; in this protocol a seed of 0 means the same as None."""
        requests = [
            simulation_pb2.ResetRequest(gym_id=self._gym_ids[lane], seed=seed or 0)
            for lane, seed in zip(lanes, seeds, strict=True)
        ]
        answers = self._call("Reset", self._reset, lanes, requests, self._reset_timeout)
        return Start(np.stack([self._observation(lane, a) for lane, a in zip(lanes, answers, strict=True)]))

    def step(self, actions: npt.NDArray[np.int64]) -> Transition:
        """See ``StepsWhenWaitedFor``."""
        lanes = range(self.lanes)
        requests = [
            simulation_pb2.StepRequest(gym_id=gym_id, action=action)
            for gym_id, action in zip(self._gym_ids, actions.tolist(), strict=True)
        ]
        answers = self._call("Step", self._step, lanes, requests, self._step_timeout)
        return Transition(
            np.stack([self._observation(lane, answer) for lane, answer in enumerate(answers)]),
            np.array([self._reward(lane, answer.reward) for lane, answer in enumerate(answers)], np.float32),
            np.array([answer.terminated for answer in answers], bool),
            np.array([answer.truncated for answer in answers], bool),
            [dict(answer.info) for answer in answers] if any(answer.info for answer in answers) else (),
        )

    def close(self) -> None:
        """Close the channel; ``Close`` is the server's to send."""
        self._channel.close()

    def _call(
        self, name: str, method: Any, lanes: Sequence[int], requests: Sequence[Any], timeout: float
    ) -> Sequence[Any]:
        lane = lanes[0]
        try:
            if len(requests) == 1:
                return [method(requests[0], timeout=timeout)]
            futures = [method.future(request, timeout=timeout) for request in requests]
            answers = []
            for lane, future in zip(lanes, futures, strict=True):  # noqa: B007 - the except clause names it
                answers.append(future.result())
            return answers
        except grpc.RpcError as error:
            raise self._failure(name, lane, error, timeout) from error

    def _failure(self, name: str, lane: int, error: Any, timeout: float) -> SimulatorError:
        code, details = error.code(), error.details()
        where = f"{name} of lane {lane} (gym '{self._gym_ids[lane]}') at {self._address}"
        if code == grpc.StatusCode.DEADLINE_EXCEEDED:
            return EnvironmentLost(f"the simulator did not answer {where} within {timeout:g} s")
        if code == grpc.StatusCode.UNAVAILABLE:
            return EnvironmentLost(f"the simulator was lost during {where}: {details}")
        return SimulatorError(f"the simulator answered {where} with {code.name}: {details}")

    def _observation(self, lane: int, answer: Any) -> npt.NDArray[np.float32]:
        values = np.array(answer.observation, np.float32)
        if len(values) != self._observation_dim:
            raise ContractViolation(
                f"lane {lane} (gym '{self._gym_ids[lane]}'): observation has {len(values)} values, "
                f"{self._observation_dim} were agreed"
            )
        if not np.isfinite(values).all():
            index = int(np.flatnonzero(~np.isfinite(values))[0])
            raise ContractViolation(
                f"lane {lane} (gym '{self._gym_ids[lane]}'): observation[{index}] is {values[index]}; "
                "every value must be finite"
            )
        return values

    def _reward(self, lane: int, reward: float) -> float:
        if not math.isfinite(reward):
            raise ContractViolation(f"lane {lane} (gym '{self._gym_ids[lane]}'): reward is {reward}; it must be finite")
        return reward


def await_ready(channel: grpc.Channel, address: str, timeout: float) -> None:
    """Wait for a connection. Raises EnvironmentLost, which says what stands at the address instead."""
    try:
        grpc.channel_ready_future(channel).result(timeout=timeout)
    except grpc.FutureTimeoutError:
        channel.close()
        raise EnvironmentLost(
            f"no simulator could be reached at {address} within {timeout:g} s: {_why_unreachable(address)}"
        ) from None


def _why_unreachable(address: str, connect: Callable[..., socket.socket] = socket.create_connection) -> str:
    """What a plain connection says of an address that gRPC cannot reach."""
    if address.startswith("unix:"):
        return "no server listens on that socket"
    host, _, port = address.rpartition(":")
    began = time.monotonic()
    try:
        connect((host.strip("[]"), int(port)), timeout=2.0).close()
    except ValueError:
        return f"'{address}' is not host:port"
    except OSError as error:
        return f"{error.strerror or error} after {time.monotonic() - began:.1f} s"
    return "something listens there, but it does not speak gRPC"
