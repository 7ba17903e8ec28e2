"""A program with an agent inside, for others to kill: ADDRESS NAME TOLD END ALGORITHM.

It writes to TOLD how many steps it knows to be stored, until the file END is there.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from gymnasium import spaces

from auxilium_rl.agent import Agent

HYPERPARAMETERS = {
    "ppo": {"n_steps": 64, "batch_size": 32, "n_epochs": 1, "policy_kwargs": {"net_arch": [8]}},
    "dqn": {"learning_starts": 64, "buffer_size": 5000, "train_freq": 16, "policy_kwargs": {"net_arch": [8]}},
}


def main() -> None:
    """Act, in episodes of 50 steps."""
    address, name, told, end, algorithm = sys.argv[1:]
    agent = Agent(
        spaces.Box(-1, 1, (2,), np.float32),
        spaces.Discrete(2),
        address=address,
        agent_id=name,
        experiment_id="kills",
        total_timesteps=10**9,
        algorithm=algorithm,
        hyperparameters=HYPERPARAMETERS[algorithm],
        seed=1,
        chunk_steps=32,
        chunk_seconds=0.01,
    )
    with agent, open(told, "a", encoding="utf-8") as out:
        while not Path(end).exists():
            for number in range(50):
                agent.act([number / 50, 0.0]).reward(number)
            agent.end(terminated=True)
            agent.flush()
            out.write(json.dumps({"stored": agent.stored}) + "\n")
            out.flush()


if __name__ == "__main__":
    main()
