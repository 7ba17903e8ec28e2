"""What a served policy says beside its deterministic action, against Stable-Baselines3 itself."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from auxilium_rl.core.dto import Normalize
from auxilium_rl.inference.batches import ActRequest, FlatBatch, FlatWish
from auxilium_rl.inference.loading import checked_policy
from auxilium_rl.inference.policy import OnnxPolicy
from auxilium_rl.inference.refused import Refused, Unfit
from tests.e2e.harness import until
from tests.unit.core.test_actor_graph import CONTINUOUS, DICT, OFF, ON, VECTOR, Q, flat, sampled, served, trained

ALL = FlatWish(deterministic=False, seed=7, with_values=True, with_log_probs=True)
MULTI = spaces.MultiDiscrete([2, 3])


@pytest.mark.parametrize("action", [spaces.Discrete(3), CONTINUOUS, MULTI, spaces.MultiBinary(3)])
@pytest.mark.parametrize("wishes", [{}, {"normalize": Normalize()}])
def test_values_and_log_probs_equal_sb3(action: Any, wishes: dict[str, Any]) -> None:
    model, artifact = trained("ppo", VECTOR, action, ON, **wishes)
    policy = served(artifact)
    rows = sampled(VECTOR, 50)
    scaling = model.get_vec_normalize_env()
    seen = torch.as_tensor(scaling.normalize_obs(rows) if scaling is not None else rows)
    wish = FlatWish(with_values=True, with_log_probs=True)
    acted = policy.act_flat(FlatBatch(flat(rows, 50)), wish)
    with torch.no_grad():
        actions, values, log_probs = model.policy(seen, deterministic=True)
    np.testing.assert_allclose(acted.values, values.flatten(), atol=1e-5)
    np.testing.assert_allclose(acted.log_probs, log_probs, atol=1e-4)
    if not isinstance(action, spaces.Box):
        assert (acted.actions == actions.numpy()).all()


def test_samples_are_drawn_from_the_policy() -> None:
    model, artifact = trained("ppo", VECTOR, spaces.Discrete(3), ON)
    policy = served(artifact)
    row = np.array([[0.5, -1.0, 2.0]], np.float32)
    rows = np.repeat(row, 20_000, axis=0)
    acted = policy.act_flat(FlatBatch(rows), FlatWish(deterministic=False, seed=3, with_probabilities=True))
    with torch.no_grad():
        expected = model.policy.get_distribution(torch.as_tensor(row)).distribution.probs[0].numpy()
    np.testing.assert_allclose(acted.probabilities[0], expected, atol=1e-5)  # type: ignore[index]
    np.testing.assert_allclose(np.bincount(acted.actions, minlength=3) / 20_000, expected, atol=0.02)
    again = policy.act_flat(FlatBatch(rows), FlatWish(deterministic=False, seed=3))
    assert (again.actions == acted.actions).all()
    drawn = [policy.act_flat(FlatBatch(rows[:50]), FlatWish(deterministic=False)).actions for _ in range(2)]
    assert (drawn[0] != drawn[1]).any()


@pytest.mark.parametrize(("algorithm", "hyperparameters"), [("ppo", ON), ("sac", OFF)])
def test_continuous_samples(algorithm: str, hyperparameters: dict[str, Any]) -> None:
    model, artifact = trained(algorithm, VECTOR, CONTINUOUS, hyperparameters)
    policy = served(artifact)
    rows = np.repeat(np.array([[0.5, -1.0, 2.0]], np.float32), 5000, axis=0)
    ours = policy.act_flat(FlatBatch(rows), FlatWish(deterministic=False, seed=1, with_log_probs=True))
    torch.manual_seed(0)
    theirs, _ = model.predict(rows, deterministic=False)
    assert (CONTINUOUS.low <= ours.actions).all()
    assert (ours.actions <= CONTINUOUS.high).all()
    np.testing.assert_allclose(ours.actions.mean(axis=0), theirs.mean(axis=0), atol=0.06)
    np.testing.assert_allclose(ours.actions.std(axis=0), theirs.std(axis=0), atol=0.06)
    assert np.isfinite(ours.log_probs).all()  # type: ignore[arg-type]
    if algorithm == "sac":
        with torch.no_grad():
            squashed = 2 * (ours.actions - CONTINUOUS.low) / (CONTINUOUS.high - CONTINUOUS.low) - 1
            mean, log_std, _ = model.actor.get_action_dist_params(torch.as_tensor(rows))
            distribution = model.actor.action_dist.proba_distribution(mean, log_std)
            expected = distribution.log_prob(torch.as_tensor(squashed.astype(np.float32)))
        inside = (np.abs(squashed) < 0.99).all(axis=1)
        np.testing.assert_allclose(ours.log_probs[inside], expected[inside], atol=2e-3)  # type: ignore[index]


def test_value_based_policies_explore() -> None:
    model, artifact = trained("dqn", VECTOR, spaces.Discrete(3), Q)
    model.exploration_rate = 0.5
    policy = served(artifact)
    rows = np.repeat(np.array([[0.5, -1.0, 2.0]], np.float32), 20_000, axis=0)
    greedy = policy.act_flat(FlatBatch(rows[:1])).actions[0]
    drawn = policy.act_flat(FlatBatch(rows), FlatWish(deterministic=False, seed=1)).actions
    assert (drawn == greedy).mean() == pytest.approx(0.5 + 0.5 / 3, abs=0.02)
    masks = np.ones((20_000, 3), bool)
    masks[:, greedy] = False
    masked = policy.act_flat(FlatBatch(rows, masks=masks), FlatWish(deterministic=False, seed=1)).actions
    assert greedy not in masked
    for field in ("with_log_probs", "with_probabilities", "with_values"):
        with pytest.raises(Refused, match=f"{field}: true given"):
            policy.act_flat(FlatBatch(rows[:1]), FlatWish(**{field: True}))


def test_masks_are_those_of_sb3_contrib() -> None:
    model, artifact = trained("ppo", VECTOR, MULTI, ON, masked=True)
    policy = served(artifact)
    rows, masks = sampled(VECTOR, 200), np.random.default_rng(0).random((200, 5)) < 0.6
    masks[:, [0, 2]] = True
    wish = FlatWish(with_log_probs=True, with_probabilities=True, with_values=True)
    acted = policy.act_flat(FlatBatch(flat(rows, 200), masks=masks), wish)
    with torch.no_grad():
        actions, values, log_probs = model.policy(torch.as_tensor(rows), deterministic=True, action_masks=masks)
    assert (acted.actions == actions.numpy()).all()
    np.testing.assert_allclose(acted.log_probs, log_probs, atol=1e-5)
    np.testing.assert_allclose(acted.values, values.flatten(), atol=1e-5)
    assert (acted.probabilities[~masks] == 0).all()  # type: ignore[index]
    drawn = policy.act_flat(FlatBatch(flat(rows, 200), masks=masks), FlatWish(deterministic=False, seed=1)).actions
    assert masks[np.arange(200), drawn[:, 0]].all()
    assert masks[np.arange(200), 2 + drawn[:, 1]].all()
    with pytest.raises(Refused, match=r"values 2 to 4 of row 1 forbid every action"):
        policy.act_flat(FlatBatch(flat(rows, 200)[:2], masks=np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]], bool)))


def test_policies_that_remember_in_batches() -> None:
    _, artifact = trained("recurrent_ppo", VECTOR, spaces.Discrete(3), {**ON, "policy_kwargs": {"lstm_hidden_size": 8}})
    policy = served(artifact)
    episodes = np.stack([flat(sampled(VECTOR, 6), 6), -flat(sampled(VECTOR, 6), 6)])
    alone = []
    for episode in episodes:
        state, chosen = b"", []
        for row in episode:
            action = policy.act(row.tolist(), state)
            state = action.state
            chosen.append((action.number, state))
        alone.append(chosen)
    states: list[bytes] = [b"", b""]
    for step in range(6):
        acted = policy.act_flat(FlatBatch(episodes[:, step], states))
        states = list(acted.states)
        for lane in range(2):
            number, state = alone[lane][step]
            assert acted.actions[lane] == number
            np.testing.assert_allclose(
                np.frombuffer(states[lane], np.float32, offset=8), np.frombuffer(state, np.float32, offset=8), atol=1e-6
            )


def request(policy: OnnxPolicy, slabs: list[bytes], count: int = 1, **fields: Any) -> Any:
    return policy.act_rows(ActRequest("p", count, slabs, **fields))


def test_rows_as_the_simulator_sends_them() -> None:
    _, artifact = trained("ppo", DICT, spaces.Discrete(3, start=-2), ON)
    policy = served(artifact)
    rows: Any = sampled(DICT, 4)
    slabs = [rows[key].astype(dtype).tobytes() for key, dtype in (("b", "<f4"), ("a", "u1"), ("c", "<i8"))]
    slab, acted = request(policy, slabs, 4)
    assert np.frombuffer(slab, "<i8").tolist() == (acted.actions - 2).tolist()
    assert policy.act(flat(rows, 4)[0].tolist()).number == acted.actions[0]
    hashed = policy.description["contract_hash"]
    request(policy, slabs, 4, contract_hash=hashed)
    for fields, why in (
        ({"count": 3}, "observations: leaf 'b': 48 bytes came; 36 were expected"),
        ({"count": 5000}, r"count: 5000 given; 1 to 4096 \(ACT_MAX_BATCH\)"),
        ({"count": -1}, "count: -1 given"),
        ({"slabs": slabs[:2]}, "2 slabs came; 3 leaves were agreed"),
        ({"slabs": [b"\xff" * 48, *slabs[1:]]}, r"row 0: observation\['b'\].*nan; every value must be finite"),
        ({"slabs": [*slabs[:2], np.array([0, 1, 2, 9]).tobytes()]}, r"row 3: observation\['c'\].*9; 0 to 3"),
        ({"contract_hash": "abc"}, f"'abc' given; the policy's is '{hashed}'"),
        ({"states": [b"x"] * 4}, "states: 4 given; this policy remembers nothing"),
        ({"masks": b"\1\1"}, "action_masks: 2 bytes given; none or 4 x 3 are accepted"),
        ({"masks": b"\0\0\0" * 4}, "forbid every action"),
    ):
        arguments = {"slabs": slabs, "count": 4, **fields}
        with pytest.raises(Refused, match=why):
            request(policy, **arguments)


def test_a_policy_that_remembers_needs_states() -> None:
    _, artifact = trained("ppo", VECTOR, spaces.Discrete(3), ON, frame_stack=3)
    policy = served(artifact)
    row = np.ones(3, np.float32).tobytes()
    with pytest.raises(Refused, match=r"states: none given; this policy remembers: one for each of 1 rows"):
        request(policy, [row])
    _, first = request(policy, [row], states=[b""])
    request(policy, [row], states=first.states)
    with pytest.raises(Refused, match="3 bytes given"):
        request(policy, [row], states=[b"abc"])


def test_those_who_come_together_are_computed_together() -> None:
    _, artifact = trained("ppo", VECTOR, spaces.Discrete(3), ON)
    policy = served(artifact)
    rows = flat(sampled(VECTOR, 400), 400)
    expected = policy.first_actions(rows)[0]
    held, go = threading.Event(), threading.Event()
    inner = policy._graph._session

    class Slow:
        def run(self, names: list[str], feeds: dict[str, Any]) -> Any:
            held.set()
            go.wait(10)
            return inner.run(names, feeds)

    policy._graph._session = Slow()
    with ThreadPoolExecutor(32) as pool:
        first = pool.submit(policy.act_flat, FlatBatch(rows[:1]))
        held.wait(10)
        others = [pool.submit(policy.act_flat, FlatBatch(rows[n : n + 1])) for n in range(1, 31)]
        until(lambda: len(policy._graph._waiting) == 30, "thirty who wait")
        go.set()
        assert first.result().actions[0] == expected[0]
        assert [future.result().actions[0] for future in others] == expected[1:31].tolist()
    assert policy._graph.batches == 2
    assert policy._graph.rows == 31
    with ThreadPoolExecutor(16) as pool:  # nobody is forgotten, nobody gets another's answer
        answers = list(pool.map(lambda n: policy.act_flat(FlatBatch(rows[n : n + 1])).actions[0], range(400)))
        assert answers == expected.tolist()


def test_a_fault_reaches_everybody_who_waited_for_it_and_nobody_else() -> None:
    _, artifact = trained("ppo", VECTOR, spaces.Discrete(3), ON)
    policy = served(artifact)
    inner = policy._graph._session

    class Broken:
        def run(self, names: list[str], feeds: dict[str, Any]) -> Any:
            raise RuntimeError("no memory")

    policy._graph._session = Broken()
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(policy.act_flat, FlatBatch(np.zeros((1, 3), np.float32))) for _ in range(40)]
        for future in futures:
            with pytest.raises(RuntimeError, match="no memory"):
                future.result()
    policy._graph._session = inner
    assert policy.act([0.0, 0.0, 0.0]).number in {0, 1, 2}


def test_a_policy_that_acts_otherwise_than_it_was_trained_is_refused() -> None:
    _, artifact = trained("ppo", VECTOR, spaces.Discrete(3), ON)
    other, theirs = trained("dqn", VECTOR, spaces.Discrete(3), {**Q, "learning_rate": 1.0})
    del other
    files = {**artifact.files(), "parity.npz": theirs.files()["parity.npz"]}
    with pytest.raises(Unfit, match="here does not act as it was trained to: for sample"):
        checked_policy(files.__getitem__, files, "here", 64)
    files["parity.npz"] = b"nothing"
    with pytest.raises(Unfit, match=r"here/parity.npz cannot be read"):
        checked_policy(files.__getitem__, files, "here", 64)
