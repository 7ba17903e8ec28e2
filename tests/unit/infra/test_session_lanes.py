"""``SessionLanes`` against simulators of every autoreset mode, and against answers that break the contract."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from auxilium_rl.core.errors import ContractViolation
from auxilium_rl.infra.session.connection import SessionLost
from auxilium_rl.infra.session.lanes import SessionLanes
from auxilium_rl.wire.contract import DISABLED, NEXT_STEP, SAME_STEP, Contract
from generated.simulation.v2 import simulation_pb2 as pb

LENGTH = 3
"""Steps of an episode."""


class Counters:
    """Two lanes that count their steps; a connection to them. Lane 1 is a step ahead."""

    def __init__(self, mode: str) -> None:
        capabilities = ("partial_reset",)
        self.contract = Contract(
            "count", spaces.Box(-1, 99, (1,)), spaces.Discrete(2), 2, mode, mask_len=2, capabilities=capabilities
        )
        self.mode, self.counts, self.ended = mode, [0, 0], [False, False]
        self.log: list[tuple[str, list[int]]] = []
        self.spoil: dict[str, Any] = {}
        self.lose = 0

    def begin(self, request: pb.ToEnv, timeout: float) -> None:
        self.begun = (request, timeout)

    def finish(self) -> pb.FromEnv:
        return self.ask(*self.begun)

    def ask(self, request: pb.ToEnv, timeout: float) -> pb.FromEnv:
        kind = request.WhichOneof("kind")
        if self.lose:
            self.lose -= 1
            self.counts = [0, 0]
            raise SessionLost("restarted")
        message: Any = getattr(request, str(kind))
        lanes = list(message.lanes) or [0, 1]
        self.log.append((str(kind), lanes))
        rewards, terminated, final = [], [], []
        for lane in lanes:
            reward, over = 0.0, False
            if kind == "reset" or self.ended[lane]:
                self.counts[lane] = 0 if kind == "step" or self.counts[lane] else lane
                self.ended[lane] = False
            else:
                self.counts[lane] += 1
                reward, over = 1.0, self.counts[lane] == LENGTH
            if over and self.mode == SAME_STEP:
                final.append(self.counts[lane])
                self.counts[lane] = 0
            self.ended[lane] = over and self.mode != SAME_STEP
            rewards.append(reward)
            terminated.append(over)
        transition = pb.Transition(
            obs=[np.array([self.counts[lane] for lane in lanes], "<f4").tobytes()],
            reward=np.array(rewards, "<f4").tobytes(),
            terminated=bytes(terminated),
            truncated=bytes(len(lanes)),
            final_obs=[np.array(final, "<f4").tobytes()] if final else [],
            action_mask=bytes([1, 1] * len(lanes)),
        )
        for name, value in self.spoil.items():
            transition.ClearField(name)  # type: ignore[arg-type]
            transition.MergeFrom(pb.Transition(**{name: value}))
        return pb.FromEnv(seq=request.seq, transition=transition)

    def close(self) -> None:
        self.log.append(("close", []))


def lanes_of(mode: str) -> tuple[SessionLanes, Counters]:
    counters = Counters(mode)
    connection: Any = counters
    lanes = SessionLanes(connection, step_timeout=1.0, reset_timeout=1.0)
    lanes.reset([0, 1], [None, None])
    return lanes, counters


@pytest.mark.parametrize("mode", [SAME_STEP, NEXT_STEP, DISABLED])
def test_every_mode_means_the_same_to_the_learner(mode: str) -> None:
    lanes, _ = lanes_of(mode)
    seen, ends = [], []
    for _ in range(7):
        step = lanes.step(np.zeros(2, np.int64))
        assert not isinstance(step.observations, dict)
        seen.append(step.observations[:, 0].tolist())
        if step.final is not None:
            assert not isinstance(step.final, dict)
            ends.append((np.flatnonzero(step.terminated).tolist(), step.final[:, 0].tolist()))
        assert step.masks is not None
    # Lane 1 begins a step ahead; every episode after the first begins at 0, in the step in which the last one ends.
    assert seen == [[1, 2], [2, 0], [0, 1], [1, 2], [2, 0], [0, 1], [1, 2]]
    assert ends == [([1], [3]), ([0], [3]), ([1], [3]), ([0], [3])]


def test_next_step_steps_ended_lanes_alone() -> None:
    lanes, counters = lanes_of(NEXT_STEP)
    counters.log.clear()
    for _ in range(3):
        lanes.step(np.zeros(2, np.int64))
    assert counters.log == [("step", [0, 1]), ("step", [0, 1]), ("step", [1]), ("step", [0, 1]), ("step", [0])]


def test_disabled_resets_them() -> None:
    lanes, counters = lanes_of(DISABLED)
    counters.log.clear()
    for _ in range(2):
        lanes.step(np.zeros(2, np.int64))
    assert counters.log == [("step", [0, 1]), ("step", [0, 1]), ("reset", [1])]


def test_seeds_and_no_seeds_go_in_two_requests() -> None:
    lanes, counters = lanes_of(SAME_STEP)
    counters.log.clear()
    start = lanes.reset([1, 0], [None, 0])
    assert counters.log == [("reset", [0]), ("reset", [1])]
    assert not isinstance(start.observations, dict)
    assert start.observations.shape == (2, 1)


def test_a_lost_session_ends_every_episode_where_it_was_seen_last() -> None:
    lanes, counters = lanes_of(SAME_STEP)
    lanes.step(np.zeros(2, np.int64))
    counters.lose = 1
    step = lanes.step(np.zeros(2, np.int64))
    assert step.truncated.all()
    assert not step.terminated.any()
    assert step.rewards.tolist() == [0, 0]
    assert not isinstance(step.final, dict)
    assert step.final is not None
    assert step.final[:, 0].tolist() == [1, 2]


def test_a_session_lost_in_the_reset_of_one_lane_is_told_at_the_next_step() -> None:
    lanes, counters = lanes_of(SAME_STEP)
    lanes.step(np.zeros(2, np.int64))
    counters.lose = 1
    start = lanes.reset([0], [None])
    assert not isinstance(start.observations, dict)
    assert start.observations.tolist() == [[0]]
    step = lanes.step(np.zeros(2, np.int64))
    assert step.truncated.all()
    assert not lanes.step(np.zeros(2, np.int64)).truncated.any()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        ({"obs": [bytes(7)]}, "the only leaf: 7 bytes came; 8 were expected"),
        ({"obs": []}, "0 slabs came; 1 leaves were agreed"),
        ({"obs": [np.array([1, np.nan], "<f4").tobytes()]}, r"lane 1: observation\[0\] is nan"),
        ({"reward": bytes(4)}, "reward: 4 bytes came; 8 were expected"),
        ({"reward": np.array([1, np.inf], "<f4").tobytes()}, "lane 1: reward is inf"),
        ({"terminated": bytes(1)}, "terminated: 1 bytes came; 2 were expected"),
        ({"action_mask": bytes([1, 1, 0, 0])}, "lane 1: its action mask forbids every action"),
        ({"action_mask": b""}, "action_mask: 0 bytes came; 4 were expected"),
        ({"terminated": bytes([1, 0])}, r"lanes \[0\] ended, but no final_obs came"),
        ({"infos": [pb.LaneInfo(lane=9)]}, "infos name lane 9"),
    ],
)
def test_what_breaks_the_contract_is_named(spoil: dict[str, Any], says: str) -> None:
    lanes, counters = lanes_of(SAME_STEP)
    counters.spoil = spoil
    with pytest.raises(ContractViolation, match=says):
        lanes.step(np.zeros(2, np.int64))
