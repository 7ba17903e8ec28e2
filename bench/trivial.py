"""Environments that take no time, in a process of their own: what is left is the way there and back."""

from __future__ import annotations

import argparse
from typing import Any

import gymnasium
import numpy as np

from auxilium_rl.simulator import serve_env


class Trivial(gymnasium.Env[Any, Any]):
    """Four zeros, for ever."""

    observation_space = gymnasium.spaces.Box(-1, 1, (4,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self) -> None:
        self._seen = np.zeros(4, np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return self._seen, {}

    def step(self, action: Any) -> Any:
        return self._seen, 0.0, False, False, {}


class Picture(Trivial):
    """A stack of four pictures."""

    observation_space = gymnasium.spaces.Box(0, 255, (84, 84, 4), np.uint8)

    def __init__(self) -> None:
        self._seen = np.random.default_rng(0).integers(0, 256, (84, 84, 4), dtype=np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--lanes", type=int, default=1)
    parser.add_argument("--picture", action="store_true")
    parser.add_argument("--fast-lane", default="")
    given = parser.parse_args()
    server = serve_env(Picture if given.picture else Trivial, given.lanes, "127.0.0.1:0", fast_lane=given.fast_lane)
    print(f"listening at {server.address}")
    server.wait()


if __name__ == "__main__":
    main()
