"""Environments in the worker's own process: an embedding program's adapter, and the in-memory test environment."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from auxilium_rl.core.errors import ContractViolation
from auxilium_rl.core.lanes import StepsWhenWaitedFor
from auxilium_rl.wire.rows import AnySpace, Start, Transition

__all__ = ["AdapterLanes", "ExternalEnvAdapter", "FakeExternalEnvAdapter"]


class ExternalEnvAdapter(ABC):
    """What an embedding program implements to bring its own environment; one object is one lane."""

    @abstractmethod
    def reset(self, seed: int | None = None) -> npt.NDArray[np.float32]:
        """Begin an episode.

        Args:
            seed: of the first episode; None afterwards: go on with the environment's own random stream.

        Returns:
            The first observation, ``(observation_dim,)`` float32.
        """

    @abstractmethod
    def step(self, action: int) -> tuple[npt.NDArray[np.float32], float, bool, bool, Mapping[str, Any]]:
        """Advance by one step: observation, reward, terminated, truncated, info."""

    def close(self) -> None:  # noqa: B027 - optional to override
        """Give back what the environment holds; called exactly once."""


class FakeExternalEnvAdapter(ExternalEnvAdapter):
    """An environment in memory that a policy can master: the reward is 1 for naming the largest of the first numbers.

    Args:
        observation_dim: length of an observation; values are uniform in [-1, 1).
        action_dim: number of actions; action ``a`` is right when ``observation[a % observation_dim]`` is the largest of
            the first ``min(action_dim, observation_dim)`` values.
        max_steps: steps of an episode, after which it is truncated.
    """

    def __init__(self, observation_dim: int = 4, action_dim: int = 4, max_steps: int = 500) -> None:
        self.observation_dim, self.action_dim, self.max_steps = observation_dim, action_dim, max_steps
        self._random = np.random.default_rng(0)
        self._observation = np.zeros(observation_dim, np.float32)
        self._step = 0

    def reset(self, seed: int | None = None) -> npt.NDArray[np.float32]:
        """Begin an episode; a seed restarts the random stream."""
        if seed is not None:
            self._random = np.random.default_rng(seed)
        self._step = 0
        return self._draw()

    def step(self, action: int) -> tuple[npt.NDArray[np.float32], float, bool, bool, Mapping[str, Any]]:
        """Judge the action and draw the next observation."""
        right = int(np.argmax(self._observation[: min(self.action_dim, self.observation_dim)]))
        self._step += 1
        return self._draw(), float(action == right), False, self._step >= self.max_steps, {}

    def _draw(self) -> npt.NDArray[np.float32]:
        self._observation = self._random.uniform(-1.0, 1.0, self.observation_dim).astype(np.float32)
        return self._observation.copy()


class AdapterLanes(StepsWhenWaitedFor):
    """A ``LanePort`` over adapters, stepped one after another."""

    def __init__(self, adapters: Sequence[ExternalEnvAdapter], observation_dim: int, action_dim: int) -> None:
        self.lanes = len(adapters)
        self.observation_space: AnySpace = spaces.Box(-np.inf, np.inf, (observation_dim,), np.float32)
        self.action_space: AnySpace = spaces.Discrete(action_dim)
        self.native_observation: AnySpace = self.observation_space
        self.native_action: AnySpace = self.action_space
        self.mask_len = 0
        self._shape = (observation_dim,)
        self._adapters = tuple(adapters)

    def reset(self, lanes: Sequence[int], seeds: Sequence[int | None]) -> Start:
        """See ``LanePort.reset``."""
        first = [self._checked(n, self._adapters[n].reset(seed)) for n, seed in zip(lanes, seeds, strict=True)]
        return Start(np.stack(first))

    def step(self, actions: npt.NDArray[np.int64]) -> Transition:
        """See ``StepsWhenWaitedFor``."""
        answers = [adapter.step(action) for adapter, action in zip(self._adapters, actions.tolist(), strict=True)]
        rewards = np.array([answer[1] for answer in answers], np.float32)
        if not np.isfinite(rewards).all():
            lane = int(np.flatnonzero(~np.isfinite(rewards))[0])
            raise ContractViolation(f"lane {lane}: reward is {rewards[lane]}; it must be finite")
        return Transition(
            np.stack([self._checked(lane, answer[0]) for lane, answer in enumerate(answers)]),
            rewards,
            np.array([answer[2] for answer in answers], bool),
            np.array([answer[3] for answer in answers], bool),
            [answer[4] for answer in answers],
        )

    def close(self) -> None:
        """Close every adapter."""
        for adapter in self._adapters:
            adapter.close()

    def _checked(self, lane: int, observation: Any) -> npt.NDArray[np.float32]:
        values = np.asarray(observation, np.float32)
        if values.shape != self._shape:
            raise ContractViolation(f"lane {lane}: observation has shape {values.shape}, {self._shape} was agreed")
        if not np.isfinite(values).all():
            index = int(np.flatnonzero(~np.isfinite(values))[0])
            raise ContractViolation(f"lane {lane}: observation[{index}] is {values[index]}; every value must be finite")
        return values
