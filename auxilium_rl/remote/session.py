"""A session with a simulator for a program of its own, outside any run."""

from __future__ import annotations

import time
from collections.abc import Callable

import grpc

from auxilium_rl.core.errors import EnvironmentLost, SimulatorError
from auxilium_rl.infra.session.connection import Connection
from auxilium_rl.infra.session.lanes import SessionLanes
from auxilium_rl.infra.session.links import StreamLink
from auxilium_rl.infra.unary_simulator import await_ready, open_channel
from auxilium_rl.wire.contract import GENERATION
from generated.simulation.v2 import simulation_pb2 as pb
from generated.simulation.v2 import simulation_pb2_grpc

__all__ = ["RemoteSession", "describe"]


class _Wait:
    """A ``Patience`` that waits for so many seconds."""

    def __init__(self, limit: float) -> None:
        self._limit = limit

    def waiting(self, reason: str) -> Callable[[], None]:
        """See ``Patience``."""
        end = time.monotonic() + self._limit

        def check() -> None:
            if time.monotonic() > end:
                raise EnvironmentLost(f"{reason}; given up after {self._limit:g} s")

        return check

    def resumed(self) -> None:
        """See ``Patience``."""

    def pause(self, seconds: float) -> None:
        """See ``Patience``."""
        time.sleep(seconds)


class RemoteSession:
    """A session and the channel below it.

    Args:
        address: ``host:port``, with or without ``grpc://`` before it.
        fast_lane: take the fast lane that the simulator offers.
        step_timeout, reset_timeout, connect_timeout: seconds.
        wait: seconds to wait for a simulator that went away.

    Raises:
        EnvironmentLost: nothing answers.
        SimulatorError: the simulator refuses a session, or does not speak simulation.v2.
        ContractViolation: its contract makes no sense.
    """

    def __init__(
        self,
        address: str,
        *,
        fast_lane: bool = True,
        step_timeout: float = 60.0,
        reset_timeout: float = 120.0,
        connect_timeout: float = 10.0,
        wait: float = 60.0,
    ) -> None:
        self.address = address.removeprefix("grpc://")
        self.channel = open_channel(self.address)
        try:
            await_ready(self.channel, self.address, connect_timeout)
            self.connection = Connection(
                self.address,
                lambda: StreamLink(self.channel),
                _Wait(wait),
                connect_timeout=connect_timeout,
                fast_lane=fast_lane,
            )
        except SimulatorError:
            self.channel.close()
            raise
        self.contract = self.connection.contract
        self.lanes = SessionLanes(self.connection, step_timeout=step_timeout, reset_timeout=reset_timeout)

    def close(self) -> None:
        """End the session and hang up."""
        self.lanes.close()
        self.channel.close()


def describe(address: str, timeout: float = 10.0) -> pb.Contract:
    """What a simulator says of itself, without beginning anything. Raises EnvironmentLost, SimulatorError."""
    target = address.removeprefix("grpc://")
    with open_channel(target) as channel:
        await_ready(channel, target, timeout)
        stub = simulation_pb2_grpc.EnvironmentServiceStub(channel)
        try:
            contract: pb.Contract = stub.Describe(pb.Hello(generation=GENERATION), timeout=timeout)
        except grpc.RpcError as error:
            raise SimulatorError(
                f"the simulator at {target} answered Describe with {error.code().name}: {error.details()}"
            ) from error
    return contract
