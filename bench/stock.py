"""The peer of training: stock Stable-Baselines3 in one process (validation on, Monitor, DummyVecEnv, one thread).

Prints steps/s of a PPO run with default hyperparameters and writes the weights to the file it is given.
Arguments: timesteps, file, number of environments (default 1).
"""

from __future__ import annotations

import sys
import time

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env


def main() -> None:
    torch.set_num_threads(1)
    total, path = int(sys.argv[1]), sys.argv[2]
    lanes = int(sys.argv[3]) if len(sys.argv) > 3 else 1
    model = PPO("MlpPolicy", make_vec_env("CartPole-v1", lanes), seed=3, device="cpu")
    began = time.perf_counter()
    model.learn(total)
    print(model.num_timesteps / (time.perf_counter() - began))
    torch.save(model.policy.state_dict(), path)


if __name__ == "__main__":
    main()
