"""``Act`` answers what Stable-Baselines3's ``predict(deterministic=True)`` answers, on trained policies."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import A2C, DQN, PPO

from tests.e2e.harness import Server, running

TRAINED: dict[str, tuple[Any, dict[str, Any]]] = {
    "ppo": (PPO, {"n_steps": 256, "learning_rate": 3e-3}),
    "a2c": (A2C, {}),
    "dqn": (DQN, {"learning_starts": 100, "learning_rate": 1e-3, "target_update_interval": 200}),
}


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with running(tmp_path_factory.mktemp("parity") / "data", default_env="fake", grpc_max_workers=4) as server:
        yield server


@pytest.mark.parametrize("algorithm", TRAINED)
def test_answers_equal_predict(algorithm: str, fake: Server) -> None:
    cls, hyperparameters = TRAINED[algorithm]
    run = fake.client.train(
        algorithm,
        env="fake",
        lanes=1,
        observation_dim=4,
        action_dim=4,
        max_steps=50,
        total_timesteps=3000,
        seed=1,
        hyperparameters=hyperparameters,
    )
    status = run.wait()
    model = cls.load(status.checkpoints[-1].path, device="cpu")  # a file of our own making
    observations = np.random.default_rng(0).uniform(-1, 1, (3000, 4)).astype(np.float32)
    expected, _ = model.predict(observations, deterministic=True)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda o: fake.act(run.run_id, o.tolist()), observations))
    assert all(answer.success for answer in answers)
    got = np.array([answer.action for answer in answers])
    assert set(expected.tolist()) == {0, 1, 2, 3}
    tied = _gap(model, observations) < 1e-6
    assert ((got == expected) | tied).all()


def _gap(model: Any, observations: Any) -> Any:
    """The distance between the two best scores of each observation."""
    with torch.no_grad():
        batch = torch.as_tensor(observations)
        policy = model.policy
        scores = policy.q_net(batch) if hasattr(policy, "q_net") else policy.get_distribution(batch).distribution.logits
    best = scores.topk(2, dim=1).values
    return (best[:, 0] - best[:, 1]).numpy()
