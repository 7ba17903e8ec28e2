"""PPO and A2C on what agents pushed. Only workers import this.

The arithmetic is that of Stable-Baselines3's ``RolloutBuffer.compute_returns_and_advantage`` and of its on-policy
``collect_rollouts``: equal steps give equal weights, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv

from auxilium_rl.core.experience.feed import Piece
from auxilium_rl.core.experience.lanes import AgentLanes
from auxilium_rl.core.experience.pushed import Pushed, seen_by
from auxilium_rl.wire.rows import Obs, concat_rows, take

__all__ = ["PushedOnPolicy", "advantages_of"]

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Trajectory:
    """Steps of one episode, one after another, as rows ``first`` to before ``last`` of a rollout.

    Attributes:
        bootstrap: value of the observation after them; 0 where the episode ended.
        terminal_value: of the last observation of an episode that was cut off; 0 where it was not.
    """

    first: int
    last: int
    ended: bool
    bootstrap: np.float32
    terminal_value: np.float32


class PushedOnPolicy(Pushed, OnPolicyAlgorithm):
    """A mixin over PPO, MaskablePPO and A2C; set on a model by ``learn_from``."""

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: Any, n_rollout_steps: int, *_: Any, **__: Any
    ) -> bool:
        """Fill the buffer with as many steps as it holds, lane after lane; which agent took them does not matter."""
        lanes: AgentLanes = self.lanes
        self.policy.set_training_mode(False)
        rollout_buffer.reset()
        self.begin(callback)
        pieces = _in_order(lanes.feed.take(n_rollout_steps * rollout_buffer.n_envs))
        lanes.came()
        self._fill(rollout_buffer, pieces)
        self.num_timesteps += n_rollout_steps * rollout_buffer.n_envs
        callback.update_locals(locals())
        callback.on_step()
        self.tell()
        callback.on_rollout_end()
        return True

    def _fill(self, buffer: Any, pieces: list[Piece]) -> None:
        observations = concat_rows([take(piece.chunk.observations, slice(piece.first, piece.last)) for piece in pieces])
        rewards = _column(pieces, "rewards").copy()
        values = self._values(pieces, observations)
        trajectories = self._trajectories(pieces)
        starts = np.zeros(len(rewards), np.float32)
        for one in trajectories:
            starts[one.first] = 1.0
            if one.terminal_value:
                rewards[one.last - 1] += self.gamma * one.terminal_value
        advantages = advantages_of(rewards, values, trajectories, self.gamma, self.gae_lambda)
        self._put(buffer, "observations", seen_by(self, observations))
        actions = np.concatenate([piece.chunk.actions[piece.first : piece.last] for piece in pieces])
        columns = {
            "actions": actions.reshape(len(actions), -1),
            "rewards": rewards,
            "values": values,
            "log_probs": _column(pieces, "log_probs"),
            "episode_starts": starts,
            "advantages": advantages,
            "returns": advantages + values,
        }
        if hasattr(buffer, "action_masks"):
            columns["action_masks"] = _masks(pieces, buffer.mask_dims)
        for name, rows in columns.items():
            self._put(buffer, name, rows)
        buffer.pos, buffer.full = buffer.buffer_size, True

    @staticmethod
    def _put(buffer: Any, name: str, rows: Obs) -> None:
        """Rows go lane after lane, in the order in which SB3 flattens them again."""
        if isinstance(rows, dict):
            for key, leaf in rows.items():
                _lay(getattr(buffer, name)[key], leaf)
        else:
            _lay(getattr(buffer, name), rows)

    def _values(self, pieces: list[Piece], observations: Obs) -> Floats:
        """Those that the agents sent, or the critic's."""
        if all(piece.chunk.values is not None for piece in pieces):
            return _column(pieces, "values")
        return self._valued(observations)

    def _valued(self, rows: Obs) -> Floats:
        with torch.no_grad():
            tensor = obs_as_tensor(seen_by(self, rows), self.device)
            found: Floats = self.policy.predict_values(tensor).numpy().reshape(-1)
        return found

    def _trajectories(self, pieces: list[Piece]) -> list[Trajectory]:
        """Pieces that follow each other become one; the value after each end is asked for all at once."""
        ends: list[tuple[int, int, Piece]] = []
        row = 0
        for piece in pieces:
            goes_on = bool(ends) and _follows(ends[-1][2], piece)
            ends.append((ends.pop()[0] if goes_on else row, row + piece.count, piece))
            row += piece.count
        rows = [piece.after() for _, _, piece in ends]
        cut = [
            after for (*_, piece), after in zip(ends, rows, strict=True) if after is not None and not piece.truncated
        ]
        following = iter(self._valued(concat_rows(cut)) if cut else ())
        found: list[Trajectory] = []
        nothing = np.float32(0)
        for (first, last, piece), after in zip(ends, rows, strict=True):
            if piece.truncated:  # one by one, as SB3 does it: rows of another number differ in their last bits
                assert after is not None
                found.append(Trajectory(first, last, True, nothing, self._valued(after)[0]))
            else:
                bootstrap = nothing if after is None else next(following)
                found.append(Trajectory(first, last, piece.terminated, bootstrap, nothing))
        return found


def advantages_of(
    rewards: Floats, values: Floats, trajectories: list[Trajectory], gamma: float, gae_lambda: float
) -> Floats:
    """Generalised advantages ``(n,)``; source: Schulman et al. 2016, in SB3's order of operations.

    Trajectories stand side by side, their ends in one row, so that the recurrence runs over all of them at once.
    """
    longest = max(one.last - one.first for one in trajectories)
    shape = longest, len(trajectories)
    index = np.zeros(shape, np.int64)
    inside = np.zeros(shape, bool)
    for column, one in enumerate(trajectories):
        index[longest - (one.last - one.first) :, column] = np.arange(one.first, one.last)
        inside[longest - (one.last - one.first) :, column] = True
    reward, value = rewards[index], values[index]
    alive = np.ones(shape, np.float32)
    alive[-1] = [0.0 if one.ended else 1.0 for one in trajectories]
    following = np.concatenate([value[1:], np.array([[one.bootstrap for one in trajectories]], np.float32)])
    advantages = reward + gamma * following * alive - value
    decay = gamma * gae_lambda * alive
    for step in range(longest - 2, -1, -1):
        advantages[step] += decay[step] * advantages[step + 1]
    found = np.zeros(len(rewards), np.float32)
    found[index[inside]] = advantages[inside]
    return found


def _in_order(pieces: list[Piece]) -> list[Piece]:
    """By agent and episode; within one as they came."""
    ordered = sorted(pieces, key=lambda piece: piece.key[:2])  # stable
    return [piece for _, mine in groupby(ordered, key=lambda piece: piece.key[:2]) for piece in _by_episode(list(mine))]


def _by_episode(pieces: list[Piece]) -> list[Piece]:
    """Episodes that run side by side, one after another, each where it began."""
    order: dict[int, list[Piece]] = {}
    for piece in pieces:
        order.setdefault(piece.key[2], []).append(piece)
    return [piece for episode in order.values() for piece in episode]


def _follows(before: Piece, piece: Piece) -> bool:
    over = before.terminated or before.truncated
    return not over and before.key == piece.key and before.start + before.count == piece.start


def _column(pieces: list[Piece], name: str) -> Floats:
    return np.concatenate([getattr(piece.chunk, name)[piece.first : piece.last] for piece in pieces])


def _masks(pieces: list[Piece], length: int) -> Floats:
    parts = [
        np.ones((piece.count, length), np.float32)
        if piece.chunk.masks is None
        else piece.chunk.masks[piece.first : piece.last].astype(np.float32)
        for piece in pieces
    ]
    return np.concatenate(parts)


def _lay(target: npt.NDArray[Any], rows: npt.NDArray[Any]) -> None:
    steps, lanes = target.shape[:2]
    target[:] = rows.reshape(lanes, steps, *target.shape[2:]).swapaxes(0, 1)
