"""A session of ``simulation.v2`` spoken by hand, right or wrong."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np
import numpy.typing as npt

from auxilium_rl.infra.session.links import LinkLost, LinkRefused, StreamLink
from auxilium_rl.infra.unary_simulator import await_ready, open_channel
from auxilium_rl.wire.contract import GENERATION, Contract
from auxilium_rl.wire.rows import Obs, stack
from auxilium_rl.wire.spaces import Codec, counted_from_zero
from generated.simulation.v2 import simulation_pb2 as pb

__all__ = ["RawSession", "Simulator"]


class Simulator:
    """Where a simulator is, and what it says of itself.

    Args:
        address: ``host:port``.
        timeout: seconds for each request.
    """

    def __init__(self, address: str, timeout: float = 30.0) -> None:
        self.address, self.timeout = address.removeprefix("grpc://"), timeout
        self.channel = open_channel(self.address)
        try:
            await_ready(self.channel, self.address, min(timeout, 10.0))
        except Exception:
            self.channel.close()
            raise

    def session(self, **hello: Any) -> RawSession:
        """A new session. Raises LinkLost, LinkRefused."""
        return RawSession(self, **hello)

    def close(self) -> None:
        """Hang up."""
        self.channel.close()


class RawSession:
    """One stream. Numbers its requests itself unless told otherwise."""

    def __init__(self, simulator: Simulator, **hello: Any) -> None:
        self._timeout = simulator.timeout
        self.link = StreamLink(simulator.channel)
        self.seq = 0
        try:
            answer = self.send(pb.ToEnv(hello=pb.Hello(**{"generation": GENERATION, **hello})))
        except (LinkLost, LinkRefused):
            self.link.close()
            raise
        self.message = answer.contract
        self.kind = answer.WhichOneof("kind")
        self.contract = Contract.from_message(answer.contract) if self.kind == "contract" else None

    def __enter__(self) -> RawSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def send(self, request: pb.ToEnv) -> pb.FromEnv:
        """One request as it is, and its answer. Raises LinkLost, LinkRefused."""
        return pb.FromEnv.FromString(self.link.exchange(request.SerializeToString(), self._timeout))

    def ask(self, seq: int | None = None, **kind: Any) -> pb.FromEnv:
        """The next request, or one with a number of the caller's."""
        if seq is None:
            self.seq += 1
        return self.send(pb.ToEnv(seq=self.seq if seq is None else seq, **kind))

    def end(self) -> None:
        """Close the session and hang up."""
        try:
            self.ask(close=pb.Close(reason="checked"))
        except (LinkLost, LinkRefused, grpc.RpcError):
            return
        finally:
            self.link.close()

    def cut(self) -> None:
        """Lose the connection."""
        self.link.close()

    # -- what may be asked of it

    def agreed(self) -> Contract:
        """The contract of the handshake."""
        assert self.contract is not None
        return self.contract

    def actions(self, random: np.random.Generator, masks: bytes = b"") -> pb.Step:
        """A legal action for every lane, drawn from ``random`` alone, so that it can be drawn again."""
        contract = self.agreed()
        space = counted_from_zero(contract.action)
        rows = []
        for lane in range(contract.lanes):
            space.seed(int(random.integers(2**31)))
            mask = np.frombuffer(masks, np.int8).reshape(contract.lanes, -1)[lane] if masks else None
            rows.append(_sampled(space, mask))
        return pb.Step(action=Codec(space, action=True).encode(stack(rows, space)))

    def observations(self, transition: pb.Transition) -> Obs:
        """The rows of all lanes. Raises InvalidSlab."""
        contract = self.agreed()
        return Codec(counted_from_zero(contract.observation)).decode(transition.obs, contract.lanes)


def _sampled(space: Any, mask: npt.NDArray[np.int8] | None) -> Any:
    if mask is None:
        return space.sample()
    if hasattr(space, "nvec"):
        ends = np.cumsum(space.nvec.ravel())[:-1]
        return space.sample(mask=tuple(part.copy() for part in np.split(mask, ends)))
    if hasattr(space, "start"):
        return space.sample(mask=mask.copy())
    bits = mask.reshape(-1, 2)  # of each bit, whether it may be 0 and whether it may be 1
    return np.where(bits.all(axis=1), space.sample().ravel(), bits[:, 1])
