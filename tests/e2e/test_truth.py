"""Training through the service gives the weights of plain Stable-Baselines3, bit for bit."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import torch
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from auxilium_rl.simulator.server import EnvironmentServer
from generated import policy_trainer_pb2 as pb
from tests.e2e.harness import Server, running, simulator, start_request

LIMIT = 20
"""Steps after which an episode is truncated, low enough that it happens."""

CASES: dict[str, tuple[type[BaseAlgorithm], int, dict[str, Any]]] = {
    "PPO": (PPO, 2048, {"n_steps": 64, "batch_size": 32, "n_epochs": 2}),
    "A2C": (A2C, 1000, {"n_steps": 8}),
    "DQN": (DQN, 1200, {"learning_starts": 50, "buffer_size": 2000, "target_update_interval": 100, "train_freq": 4}),
}


class _Counter(BaseCallback):
    """Counts what the comparison must have seen."""

    def __init__(self) -> None:
        super().__init__()
        self.episodes = self.truncations = 0

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            self.episodes += "episode" in info
            self.truncations += bool(info.get("TimeLimit.truncated"))
        return True


def make_cartpole() -> gymnasium.Env[Any, Any]:
    return gymnasium.make("CartPole-v1", max_episode_steps=LIMIT)


def plain(case: str, seed: int) -> tuple[dict[str, torch.Tensor], _Counter, int]:
    """The weights of Stable-Baselines3 in one process."""
    algorithm, total, hyperparameters = CASES[case]
    model = algorithm("MlpPolicy", make_cartpole(), seed=seed, device="cpu", **hyperparameters)
    counter = _Counter()
    model.learn(total, callback=counter)
    return dict(model.policy.state_dict()), counter, model._n_updates


def served(server: Server, gyms: EnvironmentServer, case: str, seed: int) -> dict[str, torch.Tensor]:
    """The weights of the same training through the service."""
    _, total, hyperparameters = CASES[case]
    spec = pb.EnvironmentSpec(observation_dim=4, action_dim=2, max_steps=500)
    server.trainer.NegotiateEnvironment(pb.NegotiateEnvironmentRequest(experiment_id=case, spec=spec))
    request = start_request(
        experiment_id=case,
        total_timesteps=total,
        seed=seed,
        hyperparameters={**hyperparameters, "gym_ids": gyms.gym_ids[0], "n_envs": 1},
    )
    answer = getattr(server.trainer, f"StartTraining{case}")(request)
    assert answer.status == pb.STARTED, answer.message
    status = server.done(answer.run_id)
    assert status.error_message == ""
    return weights_of(Path(status.last_checkpoint_path))


def weights_of(model_zip: Path) -> dict[str, torch.Tensor]:
    with zipfile.ZipFile(model_zip) as archive:
        loaded: dict[str, torch.Tensor] = torch.load(BytesIO(archive.read("policy.pth")), weights_only=True)
    return loaded


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, EnvironmentServer]]:
    data = tmp_path_factory.mktemp("truth") / "data"
    with simulator("only", env=make_cartpole) as (gyms, address), running(data, simulation_grpc_host=address) as server:
        yield server, gyms


@pytest.mark.parametrize("seed", [0, pytest.param(7, marks=pytest.mark.long)])
@pytest.mark.parametrize("case", CASES)
def test_weights_equal_plain_sb3(case: str, seed: int, service: tuple[Server, EnvironmentServer]) -> None:
    ours = served(*service, case, seed)
    theirs, counter, updates = plain(case, seed)
    assert counter.episodes >= 10
    assert counter.truncations >= 1
    assert updates >= 20
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("case", ["PPO", *(pytest.param(case, marks=pytest.mark.long) for case in ("A2C", "DQN"))])
def test_another_seed_gives_other_weights(case: str, service: tuple[Server, EnvironmentServer]) -> None:
    one, other = served(*service, case, 1), served(*service, case, 2)
    assert not any(torch.equal(one[name], other[name]) for name in one if name.endswith("weight"))
