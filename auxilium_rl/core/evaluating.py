"""Episodes of a policy on lanes, one after another on each."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from auxilium_rl.core.dto import EnvironmentSource
from auxilium_rl.core.errors import ContractViolation, InvalidRequest
from auxilium_rl.core.evaluation_wish import Wanted, sizes_of
from auxilium_rl.core.lanes import LanePort
from auxilium_rl.core.policies import Episode
from auxilium_rl.core.policy_ports import ActionModel
from auxilium_rl.inference.batches import FlatBatch, FlatWish
from auxilium_rl.inference.refused import Refused
from auxilium_rl.wire.rows import flat, put
from auxilium_rl.wire.spaces import spaces_digest

__all__ = ["check_fit", "play"]

_LONGEST = 100_000
_TOLD_OTHERWISE = {"is_success", "TimeLimit.truncated"}


def check_fit(lanes: LanePort, description: Mapping[str, Any], source: EnvironmentSource) -> None:
    """Raises InvalidRequest when these lanes are not of the policy's spaces.

    Where the environment does not say its spaces itself, sizes are all there is to compare.
    """
    if source.observation_dim:
        _check_sizes(lanes, description, source)
        return
    found = spaces_digest(lanes.native_observation, lanes.native_action, lanes.mask_len)
    expected = description.get("contract_hash")
    if found != expected:
        raise InvalidRequest.of(
            "environment",
            f"'{source.uri}' has observations {lanes.native_observation}, actions {lanes.native_action} and a mask of "
            f"{lanes.mask_len} (contract {found[:12]}…); the policy was trained on another contract "
            f"({str(expected)[:12]}…)",
        )


def _check_sizes(lanes: LanePort, description: Mapping[str, Any], source: EnvironmentSource) -> None:
    expected = sizes_of(description)
    found = int(np.prod(lanes.native_observation.shape or ())), int(getattr(lanes.native_action, "n", 0))
    if found != expected:
        raise InvalidRequest.of(
            "environment",
            f"{found[0]} observations and {found[1]} discrete actions at '{source.uri}'; the policy takes "
            f"{expected[0]} and has {expected[1] or 'other than discrete actions'}",
        )


def play(
    lanes: LanePort,
    model: ActionModel,
    wanted: Wanted,
    tell: Callable[[Episode], None],
    stepped: Callable[[], None] = lambda: None,
) -> None:
    """Play ``wanted.episodes`` episodes; each lane plays its share: short episodes count no more than long ones.

    Touches no random stream but those of the lanes.

    Args:
        tell: called with each episode that ends; what it raises ends the play.
        stepped: called after each step of all lanes; what it raises ends the play.

    Raises:
        what ``LanePort`` raises.
    """
    game = _Play(lanes, model, wanted, tell)
    game.begin()
    while game.unfinished:
        game.advance()
        stepped()


class _Play:
    def __init__(self, lanes: LanePort, model: ActionModel, wanted: Wanted, tell: Callable[[Episode], None]) -> None:
        self._lanes, self._model, self._wanted, self._tell = lanes, model, wanted, tell
        count = lanes.lanes
        self._left = [(wanted.episodes + lane) // count for lane in range(count)][::-1]
        self._totals, self._lengths = np.zeros(count), np.zeros(count, np.int64)
        self._states: list[bytes] = [b""] * count
        self._step = 0
        space = lanes.observation_space
        self._keys = list(space.spaces) if isinstance(space, spaces.Dict) else []
        self._limit = wanted.max_steps or _LONGEST

    @property
    def unfinished(self) -> bool:
        return any(self._left)

    def begin(self) -> None:
        all_lanes = list(range(self._lanes.lanes))
        start = self._lanes.reset(all_lanes, [self._wanted.seed + lane for lane in all_lanes])
        self._observations, self._masks = start.observations, start.masks

    def advance(self) -> None:
        """One step of every lane."""
        observations, masks = self._observations, self._masks
        self._step += 1
        batch = FlatBatch(
            flat(observations, self._lanes.lanes, self._keys), self._states if self._model.remembers else (), masks
        )
        wish = FlatWish(self._wanted.deterministic, seed=(self._wanted.seed + 1) * 1_000_003 + self._step)
        try:
            acted = self._model.act_flat(batch, wish)
        except Refused as refused:
            raise ContractViolation(f"the simulator sent what its space does not have: {refused}") from refused
        if self._model.remembers:
            self._states = list(acted.states)
        self._lanes.step_async(acted.actions)
        transition = self._lanes.step_wait()
        self._totals += transition.rewards
        self._lengths += 1
        ended = transition.terminated | transition.truncated
        cut = ~ended & (self._lengths >= self._limit)
        for lane in np.flatnonzero(ended | cut).tolist():
            self._finish(lane, transition.infos[lane] if transition.infos else {})
        self._observations, self._masks = transition.observations, transition.masks
        to_reset = np.flatnonzero(cut if transition.final is not None else ended | cut).tolist()
        if to_reset and any(self._left):
            start = self._lanes.reset(to_reset, [None] * len(to_reset))
            put(self._observations, to_reset, start.observations)
            if self._masks is not None and start.masks is not None:
                self._masks[to_reset] = start.masks

    def _finish(self, lane: int, info: Mapping[str, Any]) -> None:
        if self._left[lane]:
            self._left[lane] -= 1
            success = info.get("is_success")
            self._tell(
                Episode(
                    total=float(self._totals[lane]),
                    length=int(self._lengths[lane]),
                    success=None if success is None else bool(success),
                    kpis=_numbers(info),
                )
            )
        self._totals[lane], self._lengths[lane], self._states[lane] = 0.0, 0, b""


def _numbers(info: Mapping[str, Any]) -> dict[str, float]:
    found = {key: _number(value) for key, value in info.items() if key not in _TOLD_OTHERWISE}
    return {key: value for key, value in found.items() if value is not None and np.isfinite(value)}


def _number(value: Any) -> float | None:
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.item()
    return float(value) if isinstance(value, (numbers.Real, np.number, np.bool_)) else None
