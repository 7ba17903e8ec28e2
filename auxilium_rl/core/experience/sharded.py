"""DQN, SAC, TD3 and their kin on experience that lies in replay shards. Only workers import this."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from auxilium_rl.core.experience.feed import Piece
from auxilium_rl.core.experience.lanes import AgentLanes
from auxilium_rl.core.experience.off_policy import PushedOffPolicy
from auxilium_rl.core.experience.pushed import seen_by
from auxilium_rl.core.experience.shards import ShardFeed, split
from auxilium_rl.core.experience.transitions import Transitions, picked
from auxilium_rl.wire.rows import Obs

__all__ = ["PushedSharded", "ShardedReplay", "local_replay"]

_AT_ONCE = 16
"""Batches that are drawn at once, at most."""


class ShardedReplay(ReplayBuffer):
    """A replay buffer that holds nothing: every batch is drawn from all shards, each transition as likely as another.

    All batches between two rollouts are drawn at once, and while they are learned from the next ones are on their way;
    what is stored meanwhile is drawn by those after.

    Args:
        model: whose buffer it is to be.
        capacity: of all shards.
        lanes: have shards.
    """

    def __init__(self, model: Any, capacity: int, lanes: AgentLanes) -> None:
        super(ReplayBuffer, self).__init__(capacity, model.observation_space, model.action_space, "cpu", n_envs=1)
        self.optimize_memory_usage, self.handle_timeout_termination = False, True
        assert lanes.shards is not None
        self._shards, self._model, self._lanes = lanes.shards, model, lanes
        self._asked = 0
        self._here: list[Transitions] = []
        self._size = 0

    def add(self, *_: Any, **__: Any) -> None:
        """Refused: agents push, shards store."""
        raise NotImplementedError("nothing is added here; the experience lies in shards")

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> Any:
        """``batch_size`` transitions, uniformly over all that the shards hold, with replacement."""
        if self._size != batch_size:  # another one than was foreseen, or the first of all
            if self._asked:
                self._answer()
            self._here, self._size = [], batch_size
            self._ask()
        if not self._here:
            self._answer()
            self._ask()
        return self._samples(self._here.pop())

    def _answer(self) -> None:
        rows, count, size = self._shards.answer(self._lanes.hold), self._asked, self._size
        self._lanes.came()
        mixed = np.random.permutation(count * size).reshape(count, size)  # they came shard by shard
        self._asked, self._here = 0, [picked(rows, index) for index in mixed]

    def _ask(self) -> None:
        steps = self._model.gradient_steps
        self._asked = min(steps if steps > 0 else self._model.train_freq.frequency, _AT_ONCE)
        sizes = self._shards.sizes()
        places = np.random.randint(0, int(sizes.sum()), size=self._asked * self._size)
        self._shards.ask(split(places, sizes))

    def _samples(self, rows: Transitions) -> ReplayBufferSamples | DictReplayBufferSamples:
        actions: Any = rows.actions
        if isinstance(self.action_space, spaces.Box):
            actions = self._model.policy.scale_action(actions)
        actions = actions.reshape(len(actions), -1).astype(self._maybe_cast_dtype(self.action_space.dtype), copy=False)
        values = (
            self._tensors(seen_by(self._model, rows.observations)),
            self.to_torch(actions),
            self._tensors(seen_by(self._model, rows.following)),
            self.to_torch(rows.terminated.reshape(-1, 1)),
            self.to_torch(rows.rewards.reshape(-1, 1)),
        )
        kind: Any = DictReplayBufferSamples if isinstance(self.observation_space, spaces.Dict) else ReplayBufferSamples
        return kind(*values)  # type: ignore[no-any-return]

    def _tensors(self, rows: Obs) -> Any:
        if isinstance(rows, dict):
            shapes: Any = self.obs_shape
            return {key: self._tensor(leaf, shapes[key], self.observation_space[key]) for key, leaf in rows.items()}  # type: ignore[index]
        return self._tensor(rows, self.obs_shape, self.observation_space)

    def _tensor(self, leaf: Any, shape: Any, space: spaces.Space[Any]) -> Any:
        return self.to_torch(leaf.reshape(len(leaf), *shape).astype(space.dtype, copy=False))


class PushedSharded(PushedOffPolicy):
    """A mixin as ``PushedOffPolicy``, for a model whose buffer is a ``ShardedReplay``."""

    def keep(self, replay_buffer: ReplayBuffer, pieces: list[Piece]) -> None:
        """Nothing to do: the steps lie in the shards."""

    def tell(self) -> int:
        """See ``Pushed``; also what the shards hold."""
        feed: Any = self.lanes.feed
        assert isinstance(feed, ShardFeed)
        self.logger.record("replay/size", int(feed.shards.sizes().sum()))
        self.logger.record("replay/shards", feed.shards.count)
        return super().tell()


def local_replay(model: BaseAlgorithm) -> Any:
    """The replay buffer that a checkpoint of a model must hold; None: it has none, or it lies in shards."""
    buffer = getattr(model, "replay_buffer", None)
    return None if isinstance(buffer, ShardedReplay) else buffer
