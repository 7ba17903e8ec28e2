"""Replay buffers for what agents pushed: rewards over several steps, hindsight, several buffers in one batch.

Only workers import this. Of what one lane pushed they give the batches that Stable-Baselines3's own give, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from auxilium_rl.core.dto import Hindsight, RunSpec
from auxilium_rl.core.experience.episode_rows import EpisodeRows, Rows
from auxilium_rl.core.experience.replay_plan import ONLINE
from auxilium_rl.wire.rows import AnySpace

__all__ = ["AgentDictReplayBuffer", "AgentHerReplayBuffer", "AgentReplayBuffer", "EpisodeReplay", "replay_arguments"]

Samples = ReplayBufferSamples | DictReplayBufferSamples
_ROUNDING = 1e-9


def replay_arguments(spec: RunSpec, observation: AnySpace) -> dict[str, Any]:
    """What an algorithm's class is told of its replay buffer; nothing where Stable-Baselines3's own does.

    ``n_steps`` of the algorithm is 1 then: the buffer knows it.
    """
    plan, values = spec.experience, spec.hyperparameters
    n_steps = int(values.get("n_steps", 1)) if "buffer_size" in values else 1
    if plan is None or (n_steps == 1 and not plan.buffers and plan.hindsight is None):
        return {}
    told: dict[str, Any] = {"shares": dict(plan.buffers)}
    kind: type[ReplayBuffer] = AgentDictReplayBuffer if isinstance(observation, spaces.Dict) else AgentReplayBuffer
    if plan.hindsight is not None:
        kind, told["hindsight"] = AgentHerReplayBuffer, plan.hindsight
    else:
        told |= {"n_steps": n_steps, "gamma": float(values["gamma"])}
    found: dict[str, Any] = {"replay_buffer_class": kind, "replay_buffer_kwargs": told}
    return found | {"n_steps": 1} if "n_steps" in values else found


class EpisodeReplay(ReplayBuffer):
    """What all of them have.

    Attributes:
        rows: which rows follow each other.
        others: the other named buffers; batches are made of all of them.
    """

    rows: EpisodeRows
    others: dict[str, Any]
    n_steps, gamma = 1, 1.0

    def share(self, shares: dict[str, float], make: Callable[[], Any], *, whole: bool) -> None:
        """Begin to be one of several; ``make`` makes another one that is empty."""
        self.rows = EpisodeRows(self.buffer_size, whole=whole)
        self._known = (0, False)
        self._shares = shares or {ONLINE: 1.0}
        self.others = {name: make() for name in sorted(self._shares) if name != ONLINE}

    @property
    def episodes(self) -> npt.NDArray[np.uint64]:
        """A column that is stored with the others."""
        return self.rows.episodes

    @property
    def steps(self) -> npt.NDArray[np.int64]:
        """Likewise."""
        return self.rows.steps

    def wrote(self, where: Rows, episodes: npt.NDArray[np.uint64], steps: Rows, over: npt.NDArray[np.bool_]) -> None:
        """Steps were put into the rows ``where``, and ``pos`` was moved past them."""
        self.rows.write(where, episodes, steps, over)
        self._known = self.pos, self.full

    def sample(self, batch_size: int, env: Any = None) -> Any:
        """A batch; each buffer gives its share of it, and what an empty one cannot give comes from the others."""
        self._catch_up()
        own, counts = self._counts(batch_size)
        parts = [super().sample(own, env)] if own else []
        parts += [self.others[name].sample(count, env) for name, count in counts.items() if count]
        return parts[0] if len(parts) == 1 else _joined(parts)

    def _catch_up(self) -> None:
        """The rows were restored from a checkpoint: find out again what follows what."""
        if self._known == (self.pos, self.full):
            return
        order = np.arange(self.pos)
        if self.full:
            order = np.concatenate([np.arange(self.pos, self.buffer_size), order])
        self.rows.rebuild(order, (self.dones[order, 0] > 0) | (self.timeouts[order, 0] > 0))
        self._known = self.pos, self.full

    def _counts(self, batch_size: int) -> tuple[int, dict[str, int]]:
        """How many of a batch come from this buffer, and from each of the others."""
        there = {name: share for name, share in self._shares.items() if name == ONLINE or self.others[name].size()}
        if not self.size():
            there.pop(ONLINE, None)
        total, left = sum(there.values()) or 1.0, batch_size
        counts: dict[str, int] = {}
        for name in sorted(there.keys() - {ONLINE}):
            counts[name] = min(_rounded(there[name] / total * batch_size), left)
            left -= counts[name]
        if ONLINE in there or not counts:
            return left, counts
        counts[min(counts)] += left
        return 0, counts

    def _get_samples(self, batch_inds: npt.NDArray[Any], env: Any = None) -> Any:
        if self.n_steps == 1:
            return super()._get_samples(batch_inds, env)
        np.random.randint(0, self.n_envs, size=batch_inds.shape)  # as SB3 draws a lane; there is one
        index = np.empty((len(batch_inds), self.n_steps), np.int64)
        there = np.ones(index.shape, bool)
        index[:, 0] = batch_inds
        for step in range(1, self.n_steps):
            after = self.rows.after[index[:, step - 1]]
            there[:, step] = there[:, step - 1] & (after >= 0)
            index[:, step] = np.where(there[:, step], after, index[:, step - 1])
        # The formula, and with it every rounding, is that of SB3's NStepReplayBuffer.
        ahead = self.gamma ** np.arange(self.n_steps, dtype=np.float32).reshape(1, -1)
        rewards = (self._normalize_reward(self.rewards[index, 0], env) * ahead * there).sum(axis=1, keepdims=True)
        discounts = self.gamma ** there.sum(axis=1, keepdims=True).astype(np.float32)
        last = index[:, -1]
        dones = self.dones[last].astype(np.float32) * (1.0 - self.timeouts[last].astype(np.float32))
        kind: Any = DictReplayBufferSamples if isinstance(self.observations, dict) else ReplayBufferSamples
        return kind(
            observations=self._tensors(self.observations, batch_inds, env),
            actions=self.to_torch(self.actions[batch_inds, 0]),
            next_observations=self._tensors(self.next_observations, last, env),
            dones=self.to_torch(dones),
            rewards=self.to_torch(rewards),
            discounts=self.to_torch(discounts),
        )

    def _tensors(self, values: Any, rows: npt.NDArray[Any], env: Any) -> Any:
        if isinstance(values, dict):
            found: Any = self._normalize_obs({key: leaf[rows, 0] for key, leaf in values.items()}, env)
            return {key: self.to_torch(leaf) for key, leaf in found.items()}
        plain: Any = self._normalize_obs(values[rows, 0], env)
        return self.to_torch(plain)


class AgentReplayBuffer(EpisodeReplay, ReplayBuffer):
    """Observations are arrays.

    Args:
        shares: of a batch, by the names of buffers; none: there is one.
        n_steps: steps of reward that a target sums up, as far as they are known.
    """

    def __init__(
        self, *args: Any, shares: dict[str, float] | None = None, n_steps: int = 1, gamma: float = 1.0, **more: Any
    ) -> None:
        super().__init__(*args, **more)
        self.n_steps, self.gamma = n_steps, gamma
        make = lambda: type(self)(*args, n_steps=n_steps, gamma=gamma, **more)  # noqa: E731
        self.share(shares or {}, make, whole=False)


class AgentDictReplayBuffer(EpisodeReplay, DictReplayBuffer):
    """Observations are Dicts; see ``AgentReplayBuffer``."""

    def __init__(
        self, *args: Any, shares: dict[str, float] | None = None, n_steps: int = 1, gamma: float = 1.0, **more: Any
    ) -> None:
        super().__init__(*args, **more)
        self.n_steps, self.gamma = n_steps, gamma
        make = lambda: type(self)(*args, n_steps=n_steps, gamma=gamma, **more)  # noqa: E731
        self.share(shares or {}, make, whole=False)


class AgentHerReplayBuffer(EpisodeReplay, HerReplayBuffer):
    """Hindsight experience replay (Andrychowicz et al. 2017): steps of whole episodes, most with another goal."""

    def __init__(
        self,
        *args: Any,
        shares: dict[str, float] | None = None,
        hindsight: Hindsight | None = None,
        env: Any = None,
        **more: Any,
    ) -> None:
        # Not HerReplayBuffer's: it keeps infos of every row, and counts on rows of one episode that lie side by side.
        DictReplayBuffer.__init__(self, *args, **more)
        wish = hindsight or Hindsight()
        self.env, self.copy_info_dict = _Goals(wish), False  # type: ignore[assignment]
        self.n_sampled_goal = wish.n_sampled_goal
        self.her_ratio = 1 - (1.0 / (wish.n_sampled_goal + 1))
        self._strategy = wish.goal_selection_strategy
        make = lambda: type(self)(*args, hindsight=hindsight, **more)  # noqa: E731
        self.share(shares or {}, make, whole=True)

    @property
    def ep_length(self) -> npt.NDArray[np.int64]:  # type: ignore[override]
        """Steps of each row's episode; 0: it is not whole, and not sampled."""
        return self.rows.length

    def size(self) -> int:
        """Rows that can be sampled."""
        self._catch_up()
        return int((self.rows.length > 0).sum())

    @property
    def can_sample(self) -> bool:
        """Whether an episode has ended in any of the buffers."""
        return bool(self.size()) or any(other.size() for other in self.others.values())

    def _sample_goals(self, batch_indices: npt.NDArray[Any], env_indices: npt.NDArray[Any]) -> npt.NDArray[Any]:
        lengths = self.rows.length[batch_indices, 0]
        if self._strategy == "final":
            steps = lengths - 1
        else:
            least = self.rows.steps[batch_indices, 0] if self._strategy == "future" else 0
            steps = np.random.randint(least, lengths)
        found: npt.NDArray[Any] = self.next_observations["achieved_goal"][self.rows.row_of(batch_indices, steps), 0]
        return found


class _Goals:
    """What of an environment hindsight asks for: the reward of having achieved something, as it was declared."""

    def __init__(self, wish: Hindsight) -> None:
        self._wish = wish

    def env_method(self, name: str, achieved: Any, desired: Any, infos: Any, indices: Any) -> list[Any]:
        assert name == "compute_reward"
        distance = np.linalg.norm(achieved - desired, axis=-1)
        if self._wish.reward == "dense":
            return [-distance.astype(np.float32)]
        return [-(distance > self._wish.distance_threshold).astype(np.float32)]


def _rounded(exact: float) -> int:
    """A whole number that is ``exact`` in the long run: a small share of a small batch must not come to nothing."""
    whole = math.floor(exact + _ROUNDING)
    rest = exact - whole
    return whole + int(rest > _ROUNDING and np.random.random_sample() < rest)


def _joined(parts: list[Any]) -> Any:
    return type(parts[0])(*(_cat(values) for values in zip(*parts, strict=True)))


def _cat(values: tuple[Any, ...]) -> Any:
    if isinstance(values[0], dict):
        return {key: torch.cat([value[key] for value in values]) for key in values[0]}
    return None if values[0] is None else torch.cat(values)
