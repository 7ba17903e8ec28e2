"""How fast a simulator is from here: lanes by transport."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from auxilium_rl.remote.session import RemoteSession
from auxilium_rl.wire.spaces import Codec, mask_length
from generated.simulation.v2 import simulation_pb2 as pb

__all__ = ["Rate", "rates"]


@dataclass(frozen=True)
class Rate:
    """Steps of lanes a second, and the simulator's own share of a round trip."""

    transport: str
    lanes: int
    lane_steps_per_second: float
    p50_ms: float
    simulator_share: float


def rates(address: str, seconds: float = 1.0) -> list[Rate]:
    """One row for each transport that the simulator offers and each number of lanes (powers of two, and all)."""
    found = []
    for fast_lane in (False, True):
        session = RemoteSession(address, fast_lane=fast_lane)
        try:
            session.lanes.reset(range(session.lanes.lanes), [0] * session.lanes.lanes)
            if fast_lane and session.connection.transport != "fast lane":
                continue
            for count in _counts(session):
                found.append(_rate(session, count, seconds))
        finally:
            session.close()
    return found


def _counts(session: RemoteSession) -> list[int]:
    every = session.contract.lanes
    if "partial_reset" not in session.contract.capabilities:
        return [every]
    return sorted({*(2**power for power in range(every.bit_length()) if 2**power < every), every})


def _rate(session: RemoteSession, count: int, seconds: float) -> Rate:
    lanes, random = session.lanes, np.random.default_rng(0)
    codec = Codec(lanes.action_space, action=True)
    lanes.action_space.seed(0)
    chosen = [] if count == lanes.lanes else list(range(count))
    times: list[float] = []
    own, end = 0.0, time.perf_counter() + seconds
    masks = session.connection.ask(pb.ToEnv(reset=pb.Reset(lanes=chosen)), 60.0).transition.action_mask
    while time.perf_counter() < end:
        actions = np.stack([_action(lanes.action_space, masks, row, random) for row in range(count)])
        step = pb.ToEnv(step=pb.Step(action=codec.encode(actions), lanes=chosen))
        began = time.perf_counter()
        answer = session.connection.ask(step, 60.0)
        times.append(time.perf_counter() - began)
        own += answer.env_ns / 1e9
        masks = answer.transition.action_mask
    spent = sum(times)
    p50 = 1000 * float(np.median(times))
    return Rate(session.connection.transport, count, count * len(times) / spent, p50, own / spent)


def _action(space: Any, masks: bytes, row: int, random: np.random.Generator) -> Any:
    if masks and isinstance(space, spaces.Discrete):
        length = mask_length(space)
        legal = np.flatnonzero(np.frombuffer(masks, "u1")[row * length : (row + 1) * length])
        return legal[random.integers(len(legal))]
    return space.sample()
