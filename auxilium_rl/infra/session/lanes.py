"""``simulation.v2`` as a ``LanePort``: any space, many lanes in one message."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import structlog

from auxilium_rl.core.errors import ContractViolation, EnvironmentLost
from auxilium_rl.infra.session.connection import Connection, SessionLost
from auxilium_rl.wire.contract import DISABLED, NEXT_STEP
from auxilium_rl.wire.rows import Obs, Start, Transition, concat_rows, copy_rows, put, take
from auxilium_rl.wire.spaces import Codec, InvalidSlab, counted_from_zero
from generated.simulation.v2 import simulation_pb2 as pb

__all__ = ["SessionLanes"]

_log = structlog.get_logger(__name__)


class SessionLanes:
    """The lanes of one simulator; a ``LanePort`` that always resets in the step in which an episode ends.

    Attributes:
        contract: as agreed.
        last: the observations that every lane was seen with last.
        env_seconds: the simulator's own time so far, as it tells it.

    Args:
        connection: an open session; this object closes it.
        step_timeout, reset_timeout: seconds for each request.
    """

    def __init__(self, connection: Connection, *, step_timeout: float, reset_timeout: float) -> None:
        contract = self.contract = connection.contract
        self.lanes = contract.lanes
        self.observation_space = counted_from_zero(contract.observation)
        self.action_space = counted_from_zero(contract.action)
        self.native_observation, self.native_action = contract.observation, contract.action
        self.mask_len = contract.mask_len
        self._autoreset = contract.autoreset
        self._connection = connection
        self._step_timeout, self._reset_timeout = step_timeout, reset_timeout
        self._observations = Codec(self.observation_space)
        self._actions = Codec(self.action_space, action=True)
        self._all = list(range(self.lanes))
        self._none, self._zeros = np.zeros(self.lanes, bool), bytes(self.lanes)
        self._none.flags.writeable = False
        self.last: Obs | None = None
        self.env_seconds = 0.0
        self._lost_meanwhile: Transition | None = None

    def reset(
        self, lanes: Sequence[int], seeds: Sequence[int | None], options: Mapping[str, Any] | None = None
    ) -> Start:
        """See ``LanePort.reset``; ``options`` are the environment's own.

        Lanes with and without a seed go in two requests: a seed of 0 is a seed.
        """
        parts = [[n for n in lanes if (seeds[lanes.index(n)] is None) is unseeded] for unseeded in (False, True)]
        while True:
            try:
                starts = [
                    self._reset(part, [seed for n in part if (seed := seeds[lanes.index(n)]) is not None], options)
                    for part in parts
                    if part
                ]
                break
            except SessionLost as lost:
                if len(lanes) < self.lanes:
                    # The episodes of the other lanes are gone too; their ends are told at the next step.
                    self._lost_meanwhile = self._begun_again(str(lost))
                    return Start(*_rows_of(self._lost_meanwhile, lanes))
        start = starts[0] if len(starts) == 1 else _merge(starts, parts, list(lanes))
        if len(lanes) == self.lanes:
            self.last, self._lost_meanwhile = start.observations, None
        elif self.last is not None:
            self.last = copy_rows(self.last)
            put(self.last, list(lanes), start.observations)
        return start

    def step(self, actions: npt.NDArray[Any]) -> Transition:
        """``step_async`` and ``step_wait`` in one."""
        self.step_async(actions)
        return self.step_wait()

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        """See ``LanePort.step_async``."""
        if self._lost_meanwhile is None:
            request = pb.ToEnv(step=pb.Step(action=self._actions.encode(actions)))
            self._connection.begin(request, self._step_timeout)

    def step_wait(self) -> Transition:
        """See ``LanePort.step_wait``. When the session was lost, every lane ends truncated where it was last seen."""
        if self._lost_meanwhile is not None:
            lost_meanwhile, self._lost_meanwhile = self._lost_meanwhile, None
            return lost_meanwhile
        try:
            transition = self._completed(self._transition(self._connection.finish(), self._all))
        except SessionLost as lost:
            return self._begun_again(str(lost))
        self.last = transition.observations
        return transition

    def snapshot(self) -> Sequence[bytes] | None:
        """See ``LanePort.snapshot``."""
        if "snapshot" not in self.contract.capabilities or self._lost_meanwhile is not None:
            return None
        try:
            answer = self._connection.ask(pb.ToEnv(snapshot=pb.Snapshot()), self._reset_timeout)
        except SessionLost as lost:
            self._lost_meanwhile = self._begun_again(str(lost))
            return None
        states = list(answer.states.states)
        if answer.WhichOneof("kind") != "states" or len(states) != self.lanes:
            raise ContractViolation(f"the simulator answered snapshot with {len(states)} states of {self.lanes} lanes")
        return states

    def restore(self, states: Sequence[bytes]) -> Start:
        """See ``LanePort.restore``."""
        if len(states) != self.lanes:
            raise ContractViolation(f"{len(states)} states were stored; the simulator has {self.lanes} lanes")
        try:
            answer = self._connection.ask(pb.ToEnv(restore=pb.Restore(states=states)), self._reset_timeout)
        except SessionLost as lost:
            raise EnvironmentLost(f"the simulator lost its session while its lanes were restored: {lost}") from lost
        transition = self._transition(answer, self._all)
        self.last, self._lost_meanwhile = transition.observations, None
        return Start(transition.observations, transition.masks)

    def close(self) -> None:
        """Close the session: the simulator hears that the run has ended."""
        self._connection.close()

    def _reset(self, lanes: Sequence[int], seeds: Sequence[int], options: Mapping[str, Any] | None) -> Start:
        """Raises SessionLost."""
        text = json.dumps(dict(options)).encode() if options else b""
        request = pb.ToEnv(
            reset=pb.Reset(lanes=[] if len(lanes) == self.lanes else lanes, seeds=seeds, options_json=text)
        )
        transition = self._transition(self._connection.ask(request, self._reset_timeout), lanes)
        return Start(transition.observations, transition.masks)

    def _begun_again(self, reason: str) -> Transition:
        """Whether the last action was carried out will never be known: episodes are cut before it, with no reward."""
        return self.begun_after(self.last, reason)

    def begun_after(self, last: Obs | None, reason: str) -> Transition:
        """New episodes on every lane, after others that ended truncated at ``last``. Raises as ``step`` does."""
        if last is None:
            raise ContractViolation("the simulator lost its session before the first Reset was answered")
        _log.warning("session_lost", lanes=self.lanes, reason=reason)
        last = copy_rows(last)
        start = self.reset(self._all, [None] * self.lanes)
        return Transition(
            start.observations,
            np.zeros(self.lanes, np.float32),
            np.zeros(self.lanes, bool),
            np.ones(self.lanes, bool),
            [{"simulator_lost": 1.0} for _ in self._all],
            start.masks,
            last,
        )

    def _completed(self, transition: Transition) -> Transition:
        """With the resets that the simulator's autoreset mode leaves to the trainer."""
        if transition.terminated is self._none:
            return transition
        ended = np.flatnonzero(transition.terminated | transition.truncated).tolist()
        if not ended:
            return transition
        if self._autoreset not in (NEXT_STEP, DISABLED):
            if transition.final is None:
                raise ContractViolation(f"lanes {ended} ended, but no final_obs came; SAME_STEP needs it")
            return transition
        final = take(transition.observations, ended)
        start = self._reset(ended, [], None) if self._autoreset == DISABLED else self._next_step(ended)
        observations, masks = copy_rows(transition.observations), transition.masks
        put(observations, ended, start.observations)
        if masks is not None and start.masks is not None:
            masks = masks.copy()
            masks[ended] = start.masks
        return Transition(
            observations,
            transition.rewards,
            transition.terminated,
            transition.truncated,
            transition.infos,
            masks,
            final,
        )

    def _next_step(self, lanes: Sequence[int]) -> Start:
        """Step ended lanes alone: the simulator resets them and ignores the action."""
        space = self.action_space
        idle = np.zeros((len(lanes), *(space.shape or ())), space.dtype)
        step = pb.Step(action=self._actions.encode(idle), lanes=lanes)
        transition = self._transition(self._connection.ask(pb.ToEnv(step=step), self._reset_timeout), lanes)
        return Start(transition.observations, transition.masks)

    # -- messages

    def _transition(self, answer: pb.FromEnv, lanes: Sequence[int]) -> Transition:
        """Read and check an answer about ``lanes``. Raises ContractViolation."""
        if answer.WhichOneof("kind") != "transition":
            raise ContractViolation(
                f"the simulator answered with {answer.WhichOneof('kind')}; a transition is expected"
            )
        self.env_seconds += answer.env_ns / 1e9
        message, count = answer.transition, len(lanes)
        try:
            observations = self._observations.decode(message.obs, count)
            rewards = _slab("reward", message.reward, "<f4", count).astype(np.float32)
            terminated, truncated, final = self._ends(message, count)
            masks = self._masks(message.action_mask, lanes)
        except InvalidSlab as refused:
            raise ContractViolation(f"the simulator's transition: {refused}") from refused
        fault = self._observations.fault(observations, lanes)
        if not fault and final is not None:
            fault = self._observations.fault(final, np.asarray(lanes)[terminated | truncated].tolist())
        if not fault and not np.isfinite(rewards).all():
            lane = lanes[int(np.flatnonzero(~np.isfinite(rewards))[0])]
            fault = f"lane {lane}: reward is {rewards[~np.isfinite(rewards)][0]}; it must be finite"
        if fault:
            raise ContractViolation(fault)
        return Transition(observations, rewards, terminated, truncated, _infos(message, lanes), masks, final)

    def _ends(
        self, message: pb.Transition, count: int
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_], Obs | None]:
        """What ended and how, and the last observations. Most steps end nothing, and are seen to at once."""
        nothing = message.terminated == message.truncated == self._zeros and not message.final_obs
        if nothing and count == self.lanes:
            return self._none, self._none, None
        terminated = _slab("terminated", message.terminated, "u1", count).astype(bool)
        truncated = _slab("truncated", message.truncated, "u1", count).astype(bool)
        ended = int((terminated | truncated).sum())
        final = self._observations.decode(message.final_obs, ended) if message.final_obs else None
        return terminated, truncated, final

    def _masks(self, data: bytes, lanes: Sequence[int]) -> npt.NDArray[np.bool_] | None:
        if not self.mask_len:
            return None
        masks = _slab("action_mask", data, "u1", len(lanes) * self.mask_len).astype(bool)
        masks = masks.reshape(len(lanes), self.mask_len)
        if not masks.any(axis=1).all():
            lane = lanes[int(np.flatnonzero(~masks.any(axis=1))[0])]
            raise ContractViolation(f"lane {lane}: its action mask forbids every action")
        return masks


def _slab(name: str, data: bytes, dtype: str, count: int) -> npt.NDArray[Any]:
    expected = np.dtype(dtype).itemsize * count
    if len(data) != expected:
        raise InvalidSlab(f"{name}: {len(data)} bytes came; {expected} were expected")
    return np.frombuffer(data, dtype)


def _infos(message: pb.Transition, lanes: Sequence[int]) -> Sequence[dict[str, object]]:
    if not message.infos:
        return ()
    infos: list[dict[str, object]] = [{} for _ in lanes]
    rows = {lane: row for row, lane in enumerate(lanes)}
    for info in message.infos:
        if info.lane not in rows:
            raise ContractViolation(f"infos name lane {info.lane}; the answer is about {list(lanes)}")
        infos[rows[info.lane]] = {**info.scalars, **info.text}
    return infos


def _rows_of(transition: Transition, lanes: Sequence[int]) -> tuple[Obs, npt.NDArray[np.bool_] | None]:
    index = list(lanes)
    return take(transition.observations, index), None if transition.masks is None else transition.masks[index]


def _merge(starts: Sequence[Start], parts: Sequence[Sequence[int]], lanes: list[int]) -> Start:
    """Starts of disjoint lanes as one, in the order asked for."""
    order = [lanes.index(lane) for part in parts for lane in part]
    masks = None
    if starts[0].masks is not None:
        masks = np.concatenate([start.masks for start in starts if start.masks is not None])
    return Start(concat_rows([start.observations for start in starts]), masks).in_order(np.argsort(order))
