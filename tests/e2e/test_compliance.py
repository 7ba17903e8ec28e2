"""The compliance suite: our own simulators pass, and one that breaks a rule is found out by the check of that rule."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest

from auxilium_rl.simulator import serve_env, session
from auxilium_rl.simulator.lane_requests import LaneRequests
from auxilium_rl.testing.simulator_compliance import CHECKS, Check, Noncompliant, NotApplicable, Simulator
from generated.simulation.v2 import simulation_pb2 as pb
from tests.e2e.toys import Lookup, MaskedGrid, Reach


class Bits(Lookup):
    """Actions of three bytes."""

    action_space = gymnasium.spaces.MultiBinary(3)

    def step(self, action: Any) -> Any:
        return super().step(int(action[0]))


OURS: dict[str, Any] = {
    "CartPole": "CartPole-v1",
    "Lookup": Lookup,
    "Reach": Reach,
    "MaskedGrid": MaskedGrid,
    "Bits": Bits,
}
NOT_APPLICABLE = {
    # only the grid has a mask, only CartPole promises to be deterministic, and only its state can be taken
    *((name, "masks") for name in OURS if name != "MaskedGrid"),
    *((name, "seeds") for name in OURS if name != "CartPole"),
    *((name, "snapshots") for name in OURS if name != "CartPole"),
}


@pytest.fixture(scope="module", params=OURS)
def ours(request: pytest.FixtureRequest) -> Iterator[tuple[str, Simulator]]:
    with serve_env(OURS[request.param], 3, "127.0.0.1:0") as served:
        simulator = Simulator(served.address)
        yield request.param, simulator
        simulator.close()


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_our_own_simulators(check: Check, ours: tuple[str, Simulator]) -> None:
    name, simulator = ours
    if (name, check.name) in NOT_APPLICABLE:
        with pytest.raises(NotApplicable):
            check.run(simulator)
    else:
        check.run(simulator)


# -- each rule broken, in turn


def _handle_with(before: Callable[[Any, pb.ToEnv], None]) -> Callable[..., bytes]:
    original = session.Session.handle

    def handle(self: Any, data: bytes, connection: object) -> bytes:
        before(self, pb.ToEnv.FromString(data))
        return original(self, data, connection)

    return handle


def _again(self: Any, message: pb.ToEnv) -> None:
    """Carries a repeated request out again."""
    if message.seq and message.seq == self.last_seq:
        self.last_seq -= 1


def _any_order(self: Any, message: pb.ToEnv) -> None:
    if message.seq not in (0, self.last_seq):
        self.last_seq = message.seq - 1


def _without_final(self: Any, *arguments: Any) -> pb.Transition:
    transition = _message(self, *arguments)
    transition.ClearField("final_obs")
    return transition


_message = LaneRequests._message


class Forgetful(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Does not seed its noise."""

    def step(self, action: Any) -> Any:
        seen, *rest = self.env.step(action)
        return (np.float32(seen + np.random.default_rng().random(4) / 100), *rest)


class Forgotten(gymnasium.Env[Any, Any]):
    """Keeps its place, and not its random stream."""

    observation_space = gymnasium.spaces.Box(0, 1, (1,))
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return self._seen(), {}

    def step(self, action: Any) -> Any:
        return self._seen(), 0.0, False, False, {}

    def _seen(self) -> Any:
        return self.np_random.random(1).astype(np.float32)

    def get_state(self) -> bytes:
        return b"here"

    def set_state(self, state: bytes) -> None:
        if state != b"here":
            raise ValueError("not a state")


class Hopeless(MaskedGrid):
    def action_masks(self) -> list[bool]:
        return [False] * 4


class Nowhere(Reach):
    def step(self, action: Any) -> Any:
        return np.array([np.nan, 0], np.float32), 0.0, False, False, {}


def forgetful() -> Any:
    return Forgetful(gymnasium.make("CartPole-v1"))


BROKEN: dict[str, tuple[Any, str, Any]] = {
    "generation": (session, "_check_generation", lambda hello: None),
    "replay": (session.Session, "handle", _handle_with(_again)),
    "order": (session.Session, "handle", _handle_with(_any_order)),
    "not_ready": (
        LaneRequests,
        "step",
        lambda self, request: pb.Transition(obs=[bytes(16 * 2)], reward=bytes(8), terminated=bytes(2)),
    ),
    "wrong_requests": (LaneRequests, "_check_actions", lambda self, actions, lanes: None),
    "ping": (session, "_unnumbered", lambda message: pb.FromEnv(closed=pb.Closed()).SerializeToString()),
    "second_session": (
        session.SessionHost,
        "_begin",
        lambda self: session.Session(self._make_lanes(), self.contract),
    ),
    "resume": (session.SessionHost, "_resumed", lambda self, hello: (None, False)),
    "episode_ends": (LaneRequests, "_message", _without_final),
    "close": (session.Session, "_end", lambda self: None),
}
BROKEN_ENVIRONMENTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "contract": ("CartPole-v1", {"lease": 0.0}),
    "seeds": (forgetful, {}),
    "masks": (Hopeless, {}),
    "slabs": (Nowhere, {}),
    "snapshots": (Forgotten, {}),
}


def test_every_check_is_tried_on_a_simulator_that_breaks_its_rule() -> None:
    assert {*BROKEN, *BROKEN_ENVIRONMENTS} == {check.name for check in CHECKS}


@pytest.mark.parametrize("name", [check.name for check in CHECKS])
def test_a_broken_rule_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    env, options = BROKEN_ENVIRONMENTS.get(name, ("CartPole-v1", {}))
    if name in BROKEN:
        monkeypatch.setattr(*BROKEN[name])
    check = next(check for check in CHECKS if check.name == name)
    with serve_env(env, 2, "127.0.0.1:0", **options) as served:
        simulator = Simulator(served.address, timeout=5.0)
        with pytest.raises(Noncompliant):
            check.run(simulator)
        simulator.close()
