"""A doctor for simulators: what is wrong with one, and what its owner can do about it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from gymnasium import spaces

from auxilium_rl.core.errors import SimulatorError
from auxilium_rl.infra.session.links import LinkLost, LinkRefused
from auxilium_rl.remote.env import RemoteVectorEnv
from auxilium_rl.testing.simulator_compliance import CHECKS, Check, Noncompliant, NotApplicable, Simulator
from auxilium_rl.wire.contract import ContractRefused
from auxilium_rl.wire.spaces import InvalidSlab

__all__ = ["ERROR", "OK", "SKIPPED", "WARNING", "Finding", "examine"]

OK, SKIPPED, WARNING, ERROR = "ok", "skipped", "warning", "error"
_STEPS = 300


@dataclass(frozen=True)
class Finding:
    """What one look at a simulator found; ``severity`` is one of the constants of this module."""

    severity: str
    check: str
    text: str


def examine(address: str, timeout: float = 30.0) -> Iterator[Finding]:
    """Look at a simulator that speaks ``simulation.v2`` from every side; it takes some hundred steps.

    Args:
        timeout: seconds for each request.

    Raises:
        EnvironmentLost: nothing answers at ``address``.
    """
    simulator = Simulator(address, timeout)
    try:
        for check in CHECKS:
            yield _finding(check, simulator)
    finally:
        simulator.close()
    for name, look in (("values", _values), ("step_time", _step_time), ("fast_lane", _fast_lane)):
        try:
            yield look(address, timeout)
        except SimulatorError as error:
            yield Finding(ERROR, name, error.message)


def _finding(check: Check, simulator: Simulator) -> Finding:
    name, rule = check.name, check.rule
    try:
        check.run(simulator)
    except Noncompliant as wrong:
        return Finding(ERROR, name, str(wrong))
    except NotApplicable as reason:
        return Finding(SKIPPED, name, str(reason))
    except (LinkLost, LinkRefused, InvalidSlab, ContractRefused) as broken:
        return Finding(ERROR, name, f"{broken}; expected: {rule}")
    return Finding(OK, name, rule)


def _values(address: str, timeout: float) -> Finding:
    """Whether what is seen stays within what was declared, and whether anything ever changes."""
    remote = RemoteVectorEnv(address, step_timeout=timeout, fast_lane=False)
    try:
        remote.action_space.seed(0)
        first, info = remote.reset(seed=0)
        outside, moved, returns = "", False, 0
        for _ in range(_STEPS):
            seen, _, terminated, truncated, info = remote.step(_legal(remote, info))
            outside = outside or _outside(remote.single_observation_space, seen)
            moved = moved or not _equal(first, seen)
            returns += int((terminated | truncated).sum())
    finally:
        remote.close()
    if outside:
        return Finding(WARNING, "values", f"{outside}; declare wider bounds, or scale what is sent")
    if not moved:
        return Finding(WARNING, "values", f"no observation changed in {_STEPS} random steps; does Step do anything?")
    if not returns:
        return Finding(
            WARNING,
            "values",
            f"no episode ended in {_STEPS} random steps of each lane; are they so long?",
        )
    return Finding(OK, "values", f"{_STEPS} random steps of each lane stayed within bounds; {returns} episodes ended")


def _legal(remote: RemoteVectorEnv, info: dict[str, object]) -> object:
    """Random actions, legal where there is a mask."""
    masks = info.get("action_mask")
    space = remote.single_action_space
    if isinstance(masks, np.ndarray) and isinstance(space, spaces.Discrete):
        return np.array([space.sample(mask=row.astype(np.int8)) for row in masks])
    return remote.action_space.sample()


def _outside(space: object, seen: object) -> str:
    if isinstance(space, spaces.Dict) and isinstance(seen, dict):
        return next((f"'{key}': {text}" for key, leaf in space.items() if (text := _outside(leaf, seen[key]))), "")
    if not isinstance(space, spaces.Box):
        return ""
    rows = np.asarray(seen)
    wrong = (rows < space.low) | (rows > space.high)
    if not wrong.any():
        return ""
    lane, *index = (int(n) for n in np.argwhere(wrong)[0])
    low, high = space.low[tuple(index)], space.high[tuple(index)]
    return f"lane {lane}: observation{index} is {rows[wrong][0]:g}, outside {low:g} to {high:g}"


def _equal(one: object, other: object) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return all(_equal(one[key], other[key]) for key in one)
    return bool(np.array_equal(np.asarray(one), np.asarray(other)))


def _step_time(address: str, timeout: float) -> Finding:
    remote = RemoteVectorEnv(address, step_timeout=timeout, fast_lane=False)
    times = []
    try:
        remote.action_space.seed(0)
        _, info = remote.reset(seed=0)
        before = remote.env_seconds
        for _ in range(_STEPS):
            actions = _legal(remote, info)
            began = time.perf_counter()
            info = remote.step(actions)[4]
            times.append(time.perf_counter() - began)
        own = (remote.env_seconds - before) / sum(times)
    finally:
        remote.close()
    p50, p90, p99 = (1000 * float(np.percentile(times, q)) for q in (50, 90, 99))
    text = (
        f"a step of {remote.num_envs} lanes takes {p50:.2f} ms (p90 {p90:.2f}, p99 {p99:.2f}), "
        f"{own:.0%} of it in the simulator"
    )
    if p99 > 20 * p50 and p99 > 50:
        return Finding(WARNING, "step_time", f"{text}; the slowest wait for something: a garbage collector, a disk?")
    return Finding(OK, "step_time", text)


def _fast_lane(address: str, timeout: float) -> Finding:
    remote = RemoteVectorEnv(address, step_timeout=timeout)
    try:
        offers = remote.offers
        remote.reset(seed=0)
        transport = remote.transport
    finally:
        remote.close()
    if not offers:
        return Finding(SKIPPED, "fast_lane", "none is offered; on one machine a Unix socket makes steps much faster")
    if transport != "fast lane":
        return Finding(WARNING, "fast_lane", f"{', '.join(offers)} was offered, but could not be used from here")
    return Finding(OK, "fast_lane", f"{', '.join(offers)} works")
