"""Actions that agents draw: numbers that every language draws alike, and the distributions they come from."""

from __future__ import annotations

import json
import math
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from auxilium_rl.inference.refused import Refused
from auxilium_rl.inference.sampling import Sampler, SplitMix64
from tests.unit.core.test_actor_graph import CONTINUOUS, OFF, ON, VECTOR, Q, trained

ROWS = np.random.default_rng(0).uniform(-1, 1, (200, 3)).astype(np.float32)


def sampler(algorithm: str, action: Any, hyperparameters: Any, **more: Any) -> tuple[Any, Sampler]:
    masked = more.pop("masked", False)
    model, artifact = trained(algorithm, VECTOR, action, hyperparameters, masked=masked)
    return model, Sampler(artifact.graph(), json.loads(artifact.description()), **more)


def test_the_generator_is_splitmix64() -> None:
    """Figures of the reference implementation for the seed 1234567."""
    rng = SplitMix64(1234567)
    assert [rng.word() for _ in range(3)] == [6457827717110365317, 3203168211198807973, 9817491932198370423]
    numbers = [rng.uniform() for _ in range(20_000)]
    assert 0 <= min(numbers) < max(numbers) < 1
    assert np.mean(numbers) == pytest.approx(0.5, abs=0.01)
    normal = [rng.normal() for _ in range(20_000)]
    assert (np.mean(normal), np.std(normal)) == (pytest.approx(0, abs=0.03), pytest.approx(1, abs=0.03))


@pytest.mark.parametrize("count", [3, 40])
def test_choices(count: int) -> None:
    model, one = sampler("ppo", spaces.Discrete(count), ON)
    rng = SplitMix64(1)
    drawn = [one.draw(ROWS[0], rng) for _ in range(4000)]
    with torch.no_grad():
        distribution = model.policy.get_distribution(torch.from_numpy(ROWS[:1]))
        expected = distribution.distribution.probs[0].numpy()
        log_probs = distribution.log_prob(torch.tensor([draw.taken for draw in drawn])).numpy()
    shares = np.bincount([draw.taken for draw in drawn], minlength=count) / len(drawn)
    assert np.abs(shares - expected).max() < 5 * math.sqrt(0.25 / len(drawn))
    np.testing.assert_allclose([draw.log_prob for draw in drawn], log_probs, atol=1e-5)
    best, _ = model.predict(ROWS, deterministic=True)
    assert [one.best(row).sent for row in ROWS] == best.tolist()


def test_masks() -> None:
    model, one = sampler("maskable_ppo", spaces.Discrete(3), ON, masked=True)
    rng, mask = SplitMix64(1), np.array([True, False, True])
    drawn = [one.draw(row, rng, mask) for row in ROWS]
    assert {draw.taken for draw in drawn} <= {0, 2}
    with torch.no_grad():
        distribution = model.policy.get_distribution(torch.from_numpy(ROWS), action_masks=np.tile(mask, (200, 1)))
        log_probs = distribution.log_prob(torch.tensor([draw.taken for draw in drawn])).numpy()
    np.testing.assert_allclose([draw.log_prob for draw in drawn], log_probs, atol=1e-5)
    for wrong in (np.zeros(3, bool), np.ones(2, bool)):
        with pytest.raises(Refused, match="mask"):
            one.draw(ROWS[0], rng, wrong)


@pytest.mark.parametrize(("algorithm", "hyperparameters"), [("ppo", ON), ("sac", OFF)])
def test_numbers(algorithm: str, hyperparameters: Any) -> None:
    model, one = sampler(algorithm, CONTINUOUS, hyperparameters)
    rng = SplitMix64(1)
    drawn = [one.draw(row, rng) for row in ROWS]
    for draw in drawn:
        assert CONTINUOUS.contains(draw.sent)
    if algorithm == "ppo":
        with torch.no_grad():
            distribution = model.policy.get_distribution(torch.from_numpy(ROWS))
            taken = torch.from_numpy(np.array([draw.taken for draw in drawn]))
            expected = distribution.log_prob(taken).numpy()
        np.testing.assert_allclose([draw.log_prob for draw in drawn], expected, atol=1e-4)
    assert np.std([draw.sent for draw in drawn], axis=0).min() > 0.05


def test_exploration_of_those_that_have_none() -> None:
    _, greedy = sampler("dqn", spaces.Discrete(3), Q)
    greedy._epsilon = 0.5
    rng = SplitMix64(1)
    other = [greedy.draw(ROWS[0], rng).taken != greedy.best(ROWS[0]).taken for _ in range(3000)]
    assert np.mean(other) == pytest.approx(0.5 * 2 / 3, abs=0.05)
    _, noisy = sampler("td3", CONTINUOUS, OFF, noise=0.2)
    spread = np.std([noisy.draw(ROWS[0], rng).sent for _ in range(300)], axis=0)
    assert (spread > 0.02).all()
    assert (noisy.best(ROWS[0]).sent == noisy.best(ROWS[0]).sent).all()


def test_agents_of_one_process_share_what_computes_and_nothing_else() -> None:
    (_, artifact), (_, other) = (
        trained("ppo", VECTOR, CONTINUOUS, {**ON, "learning_rate": rate}) for rate in (1e-4, 1e-2)
    )
    graphs = [bytes(bytearray(graph)) for graph in (artifact.graph(), artifact.graph(), other.graph())]
    samplers = [Sampler(graph, json.loads(artifact.description())) for graph in graphs]
    assert samplers[0]._session is samplers[1]._session
    assert samplers[0]._session is not samplers[2]._session
    alone = [[one.best(row).sent.tolist() for row in ROWS] for one in samplers]
    with ThreadPoolExecutor(3) as pool:
        for _ in range(10):
            found = list(pool.map(lambda one: [one.best(row).sent.tolist() for row in ROWS], samplers))
            assert found == alone
    assert alone[0] == alone[1] != alone[2]
    gone = weakref.ref(samplers[2]._session)
    samplers.pop()
    assert gone() is None


@pytest.mark.parametrize("action", [spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(3)])
def test_several_choices_at_once(action: Any) -> None:
    _, one = sampler("ppo", action, ON)
    draw = one.draw(ROWS[0], SplitMix64(1))
    assert action.contains(np.asarray(draw.sent, action.dtype))
    assert draw.log_prob < 0


def test_noise_comes_with_the_policy() -> None:
    """Stable-Baselines3's own is on actions from -1 to 1, which is in halves of the Box's range."""
    noisy = {**OFF, "action_noise": {"type": "normal", "sigma": 0.02}}
    rows = np.tile(ROWS[:1], (400, 1))
    for hyperparameters, given, expected in (
        (noisy, None, 0.02),
        (noisy, 0.05, 0.05),
        (OFF, None, 0.1),
        (OFF, 0.0, 0.0),
    ):
        _, one = sampler("td3", CONTINUOUS, hyperparameters, noise=given)
        rng = SplitMix64(1)
        drawn = np.array([one.draw(row, rng).sent for row in rows]) - one.best(rows[0]).sent
        half = 0.5 * (CONTINUOUS.high - CONTINUOUS.low)
        assert np.std(drawn / half, axis=0) == pytest.approx(expected, abs=0.3 * expected + 1e-6)
