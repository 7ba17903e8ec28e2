"""Requests of ``simulation.v2`` carried out on lanes: checked first, so that a refused one changes nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from auxilium_rl.simulator.describing import AnyLanes
from auxilium_rl.wire.contract import Contract
from auxilium_rl.wire.gym_lanes import GymLanes
from auxilium_rl.wire.rows import Start, Transition
from auxilium_rl.wire.spaces import Codec, InvalidSlab
from auxilium_rl.wire.trees import InvalidTree
from generated.simulation.v2 import simulation_pb2 as pb

__all__ = ["LaneRequests", "RequestRefused"]


class RequestRefused(ValueError):
    """A request that was not carried out; names the field, what was given and what is accepted."""

    def __init__(self, code: pb.ErrorCode.ValueType, message: str) -> None:
        super().__init__(message)
        self.code = code


class LaneRequests:
    """Turns messages into calls of the lanes and back."""

    def __init__(self, lanes: AnyLanes, contract: Contract) -> None:
        self._lanes = lanes
        self._count = contract.lanes
        self._all = list(range(contract.lanes))
        self._observations = Codec(lanes.observation_space)
        self._actions = Codec(lanes.action_space, action=True)
        self._action_space = lanes.action_space
        self._choices = int(lanes.action_space.n) if isinstance(lanes.action_space, spaces.Discrete) else 0
        self._some = "partial_reset" in contract.capabilities
        self._begun = [False] * contract.lanes
        self.steps = 0
        """Steps that all lanes took together."""

    def reset(self, request: pb.Reset) -> pb.Transition:
        """Begin episodes. Raises RequestRefused."""
        lanes = self._chosen(request.lanes)
        if request.seeds and len(request.seeds) != len(lanes):
            raise RequestRefused(
                pb.ERROR_CODE_INVALID_REQUEST, f"seeds: {len(request.seeds)} given; none or {len(lanes)} are accepted"
            )
        options = _options(request.options_json)
        seeds: list[int | None] = list(request.seeds) or [None] * len(lanes)
        start = self._lanes.reset(lanes, seeds, options, sticky=request.sticky_options)
        return self._begun_message(start, lanes, request.lanes)

    def step(self, request: pb.Step) -> pb.Transition:
        """Advance lanes. Raises RequestRefused."""
        lanes = self._chosen(request.lanes)
        for lane in lanes:
            if not self._begun[lane]:
                raise RequestRefused(pb.ERROR_CODE_NOT_READY, f"lane {lane} needs a Reset before a Step")
        if not self._some and len(lanes) != self._count:
            raise RequestRefused(
                pb.ERROR_CODE_UNSUPPORTED, f"lanes: {lanes} given; this simulator steps all of them at once"
            )
        if request.want or request.want_render:
            raise RequestRefused(pb.ERROR_CODE_UNSUPPORTED, "want and want_render are not taken here; leave them out")
        try:
            actions = self._actions.decode(request.action, len(lanes))
        except InvalidSlab as refused:
            raise RequestRefused(pb.ERROR_CODE_INVALID_REQUEST, f"action: {refused}") from refused
        assert not isinstance(actions, dict)
        self._check_actions(actions, lanes)
        self.steps += len(lanes)
        return self._message(self._lanes.step(actions, lanes if request.lanes else None), lanes, request.lanes)

    def snapshot(self, request: pb.Snapshot) -> pb.States:
        """The state of lanes. Raises RequestRefused."""
        lanes = self._chosen(request.lanes)
        for lane in lanes:
            if not self._begun[lane]:
                raise RequestRefused(pb.ERROR_CODE_NOT_READY, f"lane {lane} needs a Reset before a Snapshot")
        return pb.States(lanes=request.lanes, states=self._capturable().snapshot(lanes))

    def restore(self, request: pb.Restore) -> pb.Transition:
        """Bring lanes to states of an earlier Snapshot, in this process or another. Raises RequestRefused."""
        lanes = self._chosen(request.lanes)
        able = self._capturable()
        if len(request.states) != len(lanes):
            raise RequestRefused(
                pb.ERROR_CODE_INVALID_REQUEST, f"states: {len(request.states)} given; {len(lanes)} are accepted"
            )
        try:
            start = able.restore(lanes, request.states)
        except (InvalidTree, ValueError) as refused:
            raise RequestRefused(pb.ERROR_CODE_INVALID_REQUEST, f"states: {refused}") from refused
        return self._begun_message(start, lanes, request.lanes)

    def _capturable(self) -> GymLanes:
        if isinstance(self._lanes, GymLanes) and self._lanes.can_capture:
            return self._lanes
        raise RequestRefused(pb.ERROR_CODE_UNSUPPORTED, "the state of this environment cannot be taken")

    def close(self) -> None:
        """Close the lanes."""
        self._lanes.close()

    def _begun_message(self, start: Start, lanes: Sequence[int], named: Sequence[int]) -> pb.Transition:
        for lane in lanes:
            self._begun[lane] = True
        count = len(lanes)
        return pb.Transition(
            obs=self._observations.encode(start.observations),
            reward=bytes(4 * count),
            terminated=bytes(count),
            truncated=bytes(count),
            action_mask=b"" if start.masks is None else start.masks.tobytes(),
            lanes=named,
        )

    def _message(self, step: Transition, lanes: Sequence[int], named: Sequence[int]) -> pb.Transition:
        return pb.Transition(
            obs=self._observations.encode(step.observations),
            reward=step.rewards.tobytes(),
            terminated=step.terminated.tobytes(),
            truncated=step.truncated.tobytes(),
            final_obs=self._observations.encode(step.final) if step.final is not None else (),
            action_mask=b"" if step.masks is None else step.masks.tobytes(),
            infos=[_lane_info(lane, info) for lane, info in zip(lanes, step.infos, strict=True) if info]
            if step.infos
            else (),
            lanes=named,
        )

    def _chosen(self, lanes: Sequence[int]) -> list[int]:
        if not lanes:
            return self._all
        chosen = list(lanes)
        for lane in chosen:
            if lane >= self._count:
                raise RequestRefused(
                    pb.ERROR_CODE_INVALID_REQUEST, f"lanes: {lane} given; 0 to {self._count - 1} are accepted"
                )
        if len(set(chosen)) != len(chosen):
            raise RequestRefused(pb.ERROR_CODE_INVALID_REQUEST, f"lanes: {chosen} given; each may come once")
        return chosen

    def _check_actions(self, actions: npt.NDArray[Any], lanes: Sequence[int]) -> None:
        space = self._action_space
        if isinstance(space, spaces.Discrete):
            values = actions.tolist()
            if min(values) >= 0 and max(values) < self._choices:
                return
        if isinstance(space, spaces.Box):
            wrong = ~((actions >= space.low.astype(np.float32)) & (actions <= space.high.astype(np.float32)))
            rule = "the bounds of the contract hold"
        elif isinstance(space, spaces.Discrete):
            wrong, rule = (actions < 0) | (actions >= space.n), f"0 to {space.n - 1} are accepted"
        elif isinstance(space, spaces.MultiDiscrete):
            wrong, rule = (actions < 0) | (actions >= space.nvec), f"0 to below {space.nvec.tolist()} are accepted"
        else:
            wrong, rule = actions > 1, "0 and 1 are accepted"
        if wrong.any():
            index = np.argwhere(wrong)[0]
            raise RequestRefused(
                pb.ERROR_CODE_INVALID_ACTION,
                f"action of lane {lanes[index[0]]}{index[1:].tolist() or ''}: {actions[tuple(index)]} given; {rule}",
            )


def _options(text: bytes) -> dict[str, Any] | None:
    if not text:
        return None
    try:
        options = json.loads(text)
    except ValueError as error:
        raise RequestRefused(pb.ERROR_CODE_INVALID_REQUEST, f"options_json: {error}") from error
    if not isinstance(options, dict):
        raise RequestRefused(pb.ERROR_CODE_INVALID_REQUEST, f"options_json: {type(options).__name__}; a JSON object is")
    return options


def _lane_info(lane: int, info: Mapping[str, Any]) -> pb.LaneInfo:
    message = pb.LaneInfo(lane=lane)
    for key, value in info.items():
        number = _number(value)
        if number is None:
            message.text[str(key)] = str(value)
        else:
            message.scalars[str(key)] = number
    return message


def _number(value: Any) -> float | None:
    if isinstance(value, (bool, int, float, np.generic)) or (isinstance(value, np.ndarray) and value.ndim == 0):
        try:
            number = float(value)
        except (TypeError, ValueError):
            return None
        return number if math.isfinite(number) else None
    return None
