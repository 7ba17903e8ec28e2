"""Small environments of every kind of space, on which learning shows within seconds."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

CELLS = 5


class MaskedGrid(gymnasium.Env[Any, Any]):
    """From one corner of a grid to the other; walls are masked, stepping into one ends the episode in shame.

    The best return is 1 - 0.02 x 7 = 0.86: eight steps, of which the last is free.
    """

    observation_space = spaces.Box(0, 1, (2,), np.float32)
    action_space = spaces.Discrete(4)
    MOVES = ((0, 1), (1, 0), (0, -1), (-1, 0))
    BEST = 0.86

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.x = self.y = self.count = 0
        return self._seen(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        legal = self.action_masks()[action]
        self.count += 1
        if not legal:
            return self._seen(), -5.0, True, False, {"illegal": 1.0}
        dx, dy = self.MOVES[action]
        self.x, self.y = self.x + dx, self.y + dy
        done = self.x == self.y == CELLS - 1
        return self._seen(), 1.0 if done else -0.02, done, self.count >= 50, {}

    def action_masks(self) -> list[bool]:
        return [0 <= self.x + dx < CELLS and 0 <= self.y + dy < CELLS for dx, dy in self.MOVES]

    def _seen(self) -> Any:
        return np.array([self.x, self.y], np.float32) / (CELLS - 1)


class Bright(gymnasium.Env[Any, Any]):
    """Which of four quarters of an 84 x 84 picture of 4 channels is bright? Eight questions an episode."""

    observation_space = spaces.Box(0, 255, (84, 84, 4), np.uint8)
    action_space = spaces.Discrete(4)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.count = 0
        return self._draw(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward = float(action == self.quarter)
        self.count += 1
        return self._draw(), reward, False, self.count == 8, {}

    def _draw(self) -> Any:
        self.quarter = int(self.np_random.integers(4))
        row, column = divmod(self.quarter, 2)
        picture = self.np_random.integers(0, 60, (84, 84, 4), dtype=np.uint8)
        picture[row * 42 : row * 42 + 42, column * 42 : column * 42 + 42] += 150
        return picture


class Lookup(gymnasium.Env[Any, Any]):
    """A Dict: the action is the one that ``key`` points at in ``table``. Eight questions an episode."""

    observation_space = spaces.Dict(
        {
            "table": spaces.MultiDiscrete([3, 3]),
            "key": spaces.Discrete(2, start=5),
            "noise": spaces.Box(-1, 1, (2,), np.float32),
        }
    )
    action_space = spaces.Discrete(3, start=-1)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.count = 0
        return self._draw(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward = float(action + 1 == self.table[self.key])
        self.count += 1
        return self._draw(), reward, False, self.count == 8, {}

    def _draw(self) -> Any:
        self.table = self.np_random.integers(3, size=2)
        self.key = int(self.np_random.integers(2))
        noise = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return {"table": self.table, "key": np.int64(self.key + 5), "noise": noise}


class Recall(gymnasium.Env[Any, Any]):
    """What was shown at the first step must be said at the third: only a policy that remembers can."""

    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.shown, self.count = int(self.np_random.integers(2)), 0
        return np.array([2.0 * self.shown - 1.0], np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.count += 1
        done = self.count == 3
        return np.zeros(1, np.float32), float(done and action == self.shown), done, False, {}


class Reach(gymnasium.Env[Any, Any]):
    """Say the number that is shown, with two hands of different reach."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Box(np.array([-2, 0], np.float32), np.array([2, 1], np.float32))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.count = 0
        return self._draw(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        wish = np.array([2 * self.shown[0], (self.shown[1] + 1) / 2])
        reward = -float(np.abs(action - wish).sum())
        self.count += 1
        return self._draw(), reward, False, self.count == 10, {}

    def _draw(self) -> Any:
        self.shown = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return self.shown
