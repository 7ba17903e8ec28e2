"""The simulators of the soak, each in a process of its own: ``python -m soak.environments NAME LANES``."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

from auxilium_rl.simulator import serve_env
from tests.e2e.catch_server import COLUMNS, ROWS, Catch
from tests.e2e.catch_server import serve as serve_catch
from tests.e2e.toys import Bright, Lookup, MaskedGrid

__all__ = ["MAKERS"]


class LocalCatch(gymnasium.Env[Any, Any]):
    """The game of the dm_env_rpc server, to play with what was trained there."""

    observation_space = gymnasium.spaces.Box(0, 1, (ROWS, COLUMNS), np.float32)
    action_space = gymnasium.spaces.Discrete(3, start=-1)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.game = Catch(self.np_random)
        return self.game.board(), {}

    def step(self, action: Any) -> Any:
        reward = self.game.step(int(action))
        return self.game.board(), reward or 0.0, reward is not None, False, {}


MAKERS: dict[str, Callable[[], gymnasium.Env[Any, Any]]] = {
    "dm_env_rpc": LocalCatch,
    "grid": MaskedGrid,
    "pictures": Bright,
    "dict": Lookup,
    "Pendulum-v1": lambda: gymnasium.make("Pendulum-v1"),
    "LunarLander-v3": lambda: gymnasium.make("LunarLander-v3"),
}


def main() -> None:
    name, lanes = sys.argv[1], int(sys.argv[2])
    if name == "dm_env_rpc":
        server, address = serve_catch()
        print(f"catch at {address}")
        server.wait_for_termination()
    with serve_env(MAKERS[name], lanes, "127.0.0.1:0", fast_lane="tcp://127.0.0.1:0") as simulator:
        print(f"{name} at {simulator.address}")
        threading.Event().wait()


if __name__ == "__main__":
    main()
