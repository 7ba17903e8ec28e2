"""Gymnasium environments as lanes: stepped together, reset in the step in which they end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from auxilium_rl.wire.env_states import can_capture, captured, put_back
from auxilium_rl.wire.rows import AnySpace, Start, Transition, stack
from auxilium_rl.wire.spaces import counted_from_zero, leaves_of, mask_length, shifted
from auxilium_rl.wire.trees import InvalidTree, pack, unpack

__all__ = ["GymLanes"]

Env = gymnasium.Env[Any, Any]


class GymLanes:
    """Equal environments side by side.

    Actions and observations of Discrete and MultiDiscrete count from 0 here; ``start`` is added and taken away. An
    environment with a method ``action_masks`` (as sb3-contrib has it) gives the mask of its next action.

    Args:
        make: makes one environment.
        lanes: how many.

    Raises:
        UnsupportedSpace: its spaces cannot be trained on.
    """

    def __init__(self, make: Callable[[], Env], lanes: int) -> None:
        self._envs = [make() for _ in range(lanes)]
        self.lanes = lanes
        first = self._envs[0]
        self.native_observation: AnySpace = first.observation_space
        self.native_action: AnySpace = first.action_space
        leaves_of(self.native_observation)
        leaves_of(self.native_action, action=True)
        self.observation_space = counted_from_zero(self.native_observation)
        self.action_space = counted_from_zero(self.native_action)
        self._mask_functions = [_mask_function(env) for env in self._envs]
        self.mask_len = 0 if self._mask_functions[0] is None else mask_length(self.action_space)
        self._observe = _shift(self.native_observation, -1)
        self._to_native = _action_of(self.native_action)
        self._plain_actions = isinstance(self.native_action, spaces.Discrete)
        self._none = np.zeros(lanes, bool)
        self._none.flags.writeable = False
        self._options: list[Mapping[str, Any] | None] = [None] * lanes
        self._seen: list[Any] = [None] * lanes
        self.can_capture = all(can_capture(env) for env in self._envs)
        self.spec = first.spec

    def reset(
        self,
        lanes: Sequence[int],
        seeds: Sequence[int | None],
        options: Mapping[str, Any] | None = None,
        *,
        sticky: bool = False,
    ) -> Start:
        """Begin episodes. ``sticky`` options hold for the resets inside ``step`` too, until the next ``reset``."""
        first = []
        for lane, seed in zip(lanes, seeds, strict=True):
            self._options[lane] = options if sticky else None
            observation, _ = self._envs[lane].reset(seed=seed, options=dict(options) if options else None)
            self._seen[lane] = self._observe(observation)
            first.append(self._seen[lane])
        return Start(stack(first, self.observation_space), self._masks(lanes))

    def step(self, actions: npt.NDArray[Any], lanes: Sequence[int] | None = None) -> Transition:
        """Advance lanes (None: all). Those that end begin their next episode; ``final`` has their last observations."""
        chosen = range(self.lanes) if lanes is None else lanes
        observe, to_native = self._observe, self._to_native
        given = actions.tolist() if self._plain_actions else actions
        observations: list[Any] = []
        final: list[Any] = []
        rewards: list[Any] = []
        infos: list[Any] = []
        terminated = truncated = self._none[: len(chosen)]
        for row, lane in enumerate(chosen):
            env = self._envs[lane]
            observation, reward, ended, cut, info = env.step(to_native(given[row]))
            rewards.append(reward)
            infos.append(info)
            if ended or cut:
                if not final:
                    terminated, truncated = terminated.copy(), truncated.copy()
                terminated[row], truncated[row] = ended, cut
                final.append(observe(observation))
                options = self._options[lane]
                observation, _ = env.reset(options=dict(options) if options else None)
            self._seen[lane] = seen = observe(observation)
            observations.append(seen)
        space = self.observation_space
        return Transition(
            stack(observations, space),
            np.array(rewards, np.float32),
            terminated,
            truncated,
            infos if any(infos) else (),
            self._masks(chosen),
            stack(final, space) if final else None,
        )

    def snapshot(self, lanes: Sequence[int]) -> list[bytes]:
        """The whole state of each lane, what was seen of it last included. Only where ``can_capture``."""
        return [pack({"env": captured(self._envs[lane]), "seen": self._seen[lane]}) for lane in lanes]

    def restore(self, lanes: Sequence[int], states: Sequence[bytes]) -> Start:
        """Bring lanes to states that ``snapshot`` gave; they are seen as they were then. Raises InvalidTree."""
        seen = []
        for lane, state in zip(lanes, states, strict=True):
            kept = unpack(state)
            if not isinstance(kept, dict) or kept.keys() != {"env", "seen"}:
                raise InvalidTree("not the state of a lane")
            put_back(self._envs[lane], kept["env"])
            self._seen[lane] = kept["seen"]
            seen.append(kept["seen"])
        return Start(stack(seen, self.observation_space), self._masks(lanes))

    @property
    def can_render(self) -> bool:
        """Whether ``render`` gives pictures."""
        return self._envs[0].render_mode == "rgb_array"

    def render(self, lane: int) -> Any:
        """A picture of one lane, ``(height, width, 3)`` uint8."""
        return self._envs[lane].render()

    def close(self) -> None:
        """Close every environment."""
        for env in self._envs:
            env.close()

    def _masks(self, lanes: Sequence[int]) -> npt.NDArray[np.bool_] | None:
        if not self.mask_len:
            return None
        masks = [function() for lane in lanes if (function := self._mask_functions[lane]) is not None]
        return np.stack([np.asarray(mask, bool).reshape(self.mask_len) for mask in masks])


def _mask_function(env: Env) -> Callable[[], Any] | None:
    try:
        found = env.get_wrapper_attr("action_masks")
    except AttributeError:
        return None
    return found if callable(found) else None


def _shift(space: AnySpace, sign: int) -> Callable[[Any], Any]:
    """``shifted``, and nothing at all where there is nothing to shift."""
    leaves = space.spaces.values() if isinstance(space, spaces.Dict) else [space]
    if any(np.any(getattr(leaf, "start", 0)) for leaf in leaves):
        return lambda element: shifted(space, element, sign)
    return lambda element: element


def _action_of(space: AnySpace) -> Callable[[Any], Any]:
    """From a row counted from 0 to what ``env.step`` takes."""
    if isinstance(space, spaces.Discrete):
        start = int(space.start)
        return (lambda row: int(row) + start) if start else int
    if isinstance(space, spaces.Box):
        dtype = space.dtype
        return lambda row: np.asarray(row, dtype)
    return _shift(space, 1)
