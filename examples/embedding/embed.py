"""A program that embeds the service and brings its own environment, as a closure.

Run it with ``python examples/embedding/embed.py``; it trains for a moment and asks the policy for an action.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from auxilium_rl.core.training import TrainingOrchestrator
from auxilium_rl.infra.config import EnvConfig, ServiceConfig
from auxilium_rl.infra.external_env_adapter import ExternalEnvAdapter
from auxilium_rl.infra.model_store import ModelStore
from auxilium_rl.transport.grpc_server import create_server
from generated import policy_trainer_pb2 as pb
from generated import policy_trainer_pb2_grpc


class Thermostat(ExternalEnvAdapter):
    """A room that cools down; action 1 heats. The reward is the closeness to the wanted temperature."""

    def __init__(self, wanted: float) -> None:
        self.wanted, self.temperature, self.steps = wanted, 0.0, 0
        self.random = np.random.default_rng()

    def reset(self, seed: int | None = None) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Begin with a random temperature."""
        if seed is not None:
            self.random = np.random.default_rng(seed)
        self.temperature, self.steps = float(self.random.uniform(10, 30)), 0
        return self.observe()

    def step(self, action: int) -> tuple[np.ndarray[Any, np.dtype[np.float32]], float, bool, bool, Mapping[str, Any]]:
        """Heat or not, for one step."""
        self.temperature += 1.0 if action else -0.5
        self.steps += 1
        return self.observe(), -abs(self.temperature - self.wanted), False, self.steps >= 50, {}

    def observe(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Temperature and how far it is from what is wanted."""
        return np.array([self.temperature / 30, (self.temperature - self.wanted) / 30], np.float32)


def main() -> None:
    """Serve, train, act."""
    wanted = 21.0
    with tempfile.TemporaryDirectory() as folder:
        models, checkpoints = str(Path(folder) / "models"), str(Path(folder) / "checkpoints")
        orchestrator = TrainingOrchestrator(
            ModelStore(models, checkpoints), EnvConfig(observation_dim=2, action_dim=2, max_steps=50)
        )
        server = create_server(
            orchestrator=orchestrator,
            config=ServiceConfig(port=0, models_dir=models, checkpoint_dir=checkpoints),
            adapter_factory=lambda: Thermostat(wanted),
        )
        server.start()
        with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            trainer: Any = policy_trainer_pb2_grpc.PolicyTrainerServiceStub(channel)
            request = pb.TrainingRequest(
                experiment_id="thermostat", total_timesteps=2048, seed=1, hyperparameters={"n_steps": "256"}
            )
            run_id = trainer.StartTrainingPPO(request, timeout=10).run_id
            while not (status := trainer.GetTrainingStatus(pb.StatusRequest(run_id=run_id), timeout=10)).is_done:
                time.sleep(0.1)
            print("timesteps", status.timesteps_done, status.error_message)
            print("cold room, action", trainer.Act(pb.ActRequest(run_id=run_id, observation=[0.4, -0.3])).action)
        server.stop(5)


if __name__ == "__main__":
    main()
