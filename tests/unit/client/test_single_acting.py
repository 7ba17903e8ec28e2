"""Acting on one observation at a time, against the way that batches take."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from auxilium_rl.client.errors import ActError
from auxilium_rl.client.policy_encoding import PolicyEncoding
from auxilium_rl.client.single_acting import SingleActing
from auxilium_rl.inference.batches import FlatBatch, FlatWish
from auxilium_rl.inference.policy import OnnxPolicy
from tests.unit.core.test_actor_graph import CONTINUOUS, DICT, OFF, ON, VECTOR, Q, trained

ROWS = np.random.default_rng(0).uniform(-1, 1, (200, 3)).astype(np.float32)
DISCRETE = spaces.Discrete(3, start=5)


def acting(algorithm: str, action: Any, hyperparameters: Any, observation: Any = VECTOR, **wishes: Any) -> Any:
    """A policy, and what acts with it on single observations."""
    _, artifact = trained(algorithm, observation, action, hyperparameters, **wishes)
    description = json.loads(artifact.description())
    policy = OnnxPolicy(artifact.graph(), description)
    return policy, SingleActing.of(policy, description, PolicyEncoding(description))


@pytest.mark.parametrize(
    ("algorithm", "action", "hyperparameters"),
    [
        ("ppo", DISCRETE, ON),
        ("dqn", DISCRETE, Q),
        ("ppo", CONTINUOUS, ON),
        ("sac", CONTINUOUS, OFF),
        ("td3", CONTINUOUS, OFF),
    ],
)
def test_the_best_action_is_that_of_a_batch(algorithm: str, action: Any, hyperparameters: Any) -> None:
    policy, single = acting(algorithm, action, hyperparameters)
    expected = policy.act_flat(FlatBatch(ROWS)).actions
    found = [
        single.act(row.tolist() if number % 2 else row.astype(np.float64), None, True)
        for number, row in enumerate(ROWS)
    ]
    if isinstance(action, spaces.Discrete):
        assert found == (expected + 5).tolist()
        assert all(type(one) is int for one in found)
        mask = np.array([False, True, True])
        masked = policy.act_flat(FlatBatch(ROWS, masks=np.tile(mask, (200, 1)))).actions + 5
        assert [single.act(row, mask.tolist(), True) for row in ROWS] == masked.tolist()
    else:
        np.testing.assert_allclose(found, expected, atol=1e-6)
        assert all(one.dtype == action.dtype for one in found)


@pytest.mark.parametrize(("algorithm", "hyperparameters"), [("ppo", ON), ("dqn", {**Q, "exploration_final_eps": 0.6})])
def test_drawn_actions_come_as_often_as_those_of_a_batch(algorithm: str, hyperparameters: Any) -> None:
    policy, single = acting(algorithm, DISCRETE, hyperparameters)
    mask = np.array([True, True, False])
    for legal in (None, mask):
        count = 4000
        masks = None if legal is None else np.tile(legal, (count, 1))
        batch = policy.act_flat(
            FlatBatch(np.tile(ROWS[:1], (count, 1)), masks=masks), FlatWish(deterministic=False, seed=1)
        )
        found = [single.act(ROWS[0], legal, False) - 5 for _ in range(count)]
        shares = [np.bincount(one, minlength=3) / count for one in (batch.actions, found)]
        assert np.abs(shares[0] - shares[1]).max() < 5 * np.sqrt(2 * 0.25 / count)
        assert legal is None or shares[1][2] == 0


def test_drawn_numbers_spread_as_those_of_a_batch() -> None:
    policy, single = acting("ppo", CONTINUOUS, ON)
    rows = np.tile(ROWS[:1], (3000, 1))
    batch = policy.act_flat(FlatBatch(rows), FlatWish(deterministic=False, seed=1)).actions
    found = np.array([single.act(row, None, False) for row in rows])
    np.testing.assert_allclose(found.mean(0), batch.mean(0), atol=0.1)
    np.testing.assert_allclose(found.std(0), batch.std(0), rtol=0.1)


def test_which_policies_take_more() -> None:
    assert acting("ppo", spaces.MultiDiscrete([2, 3]), ON)[1] is None
    assert acting("ppo", DISCRETE, {**ON, "policy_kwargs": {}}, DICT)[1] is None
    assert acting("ppo", DISCRETE, ON, frame_stack=2)[1] is None
    assert acting("ppo", CONTINUOUS, ON)[1].draws
    assert not acting("ppo", CONTINUOUS, {**ON, "use_sde": True})[1].draws


def test_threads_do_not_get_one_anothers_actions() -> None:
    _, single = acting("ppo", CONTINUOUS, ON)
    expected = [single.act(row, None, True) for row in ROWS]

    def all_of_them(_: int) -> list[Any]:
        return [single.act(row, None, True) for row in ROWS]

    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(all_of_them, range(40)):
            assert np.array_equal(found, expected)


@pytest.mark.parametrize(
    ("action", "observation", "mask", "words"),
    [
        (DISCRETE, [0, 0], None, "observation: shape (2,) given"),
        (DISCRETE, "high", None, "observation: could not convert"),
        (DISCRETE, [0, np.inf, 0], None, "every value must be finite"),
        (DISCRETE, [0, 0, 0], [True, True], "action_mask: shape (2,) of bool given; (3,) of truth values is accepted"),
        (DISCRETE, [0, 0, 0], [False, False, False], "action_mask: (3,) given; (3,) with something legal is accepted"),
        (DISCRETE, [0, 0, 0], ["all", "of", "them"], "action_mask: shape (3,) of <U4 given"),
        (CONTINUOUS, [0, 0, 0], [True, True], "action_mask: shape (2,) of bool given; this policy takes no mask"),
    ],
)
def test_what_is_refused(action: Any, observation: Any, mask: Any, words: str) -> None:
    _, single = acting("ppo", action, ON)
    for deterministic in (True, False):
        with pytest.raises(ActError) as refused:
            single.act(observation, mask, deterministic)
        assert words in str(refused.value)
