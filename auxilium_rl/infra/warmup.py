"""Does once, in the warm parent, what every worker would otherwise pay for at its start."""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path
from typing import Any

__all__ = ["warm_up"]


def warm_up() -> None:
    """Import everything of a worker and learn for a moment with each algorithm, to the end of an export."""
    import torch
    from stable_baselines3.common.logger import Logger

    from auxilium_rl.core.artifact import PolicyArtifact
    from auxilium_rl.core.engine import accelerate
    from auxilium_rl.core.sb3_arguments import algorithm_class
    from auxilium_rl.core.vec_env import RemoteVecEnv
    from auxilium_rl.infra.external_env_adapter import AdapterLanes, FakeExternalEnvAdapter

    torch.set_num_threads(1)
    importlib.import_module("auxilium_rl.infra.session.lanes")
    importlib.import_module("auxilium_rl.infra.worker")
    tiny: dict[str, dict[str, Any]] = {
        "ppo": {"n_steps": 8, "batch_size": 8, "n_epochs": 1},
        "a2c": {"n_steps": 4},
        "dqn": {"learning_starts": 4, "batch_size": 4, "buffer_size": 64, "train_freq": 4},
    }
    for algorithm, arguments in tiny.items():
        lanes = AdapterLanes([FakeExternalEnvAdapter(4, 2, 5)], 4, 2)
        env = RemoteVecEnv(lanes)
        model = algorithm_class(algorithm)("MlpPolicy", env, seed=0, device="cpu", **arguments)
        accelerate(model)
        model.set_logger(Logger(None, []))
        model.learn(16)
        with tempfile.TemporaryDirectory() as folder:
            model.save(Path(folder) / "model.zip")
        PolicyArtifact(model, algorithm, lanes, {}).files()
