"""Agents as the lanes of a run: their spaces, and what they pushed instead of steps. Only workers import this."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from auxilium_rl.core.control import Control, EndedEarly
from auxilium_rl.core.declared_lanes import DeclaredLanes
from auxilium_rl.core.dto import Run
from auxilium_rl.core.experience.feed import Feed
from auxilium_rl.core.experience.plan import ON_POLICY
from auxilium_rl.core.experience.ports import ExperienceReader
from auxilium_rl.core.experience.shards import ReplayShards, ShardFeed
from auxilium_rl.core.lanes import Patience
from auxilium_rl.wire.agreement import spaces_of
from auxilium_rl.wire.chunks import ChunkCodec
from auxilium_rl.wire.rows import AnySpace, Obs, Start
from auxilium_rl.wire.trees import pack, unpack

__all__ = ["AgentLanes"]

_QUIET = 1.0
"""Seconds without a step after which the run is shown as waiting."""
_RETRY = 0.02
_PATIENCE, _LONGEST = 0.02, 0.05
"""What was waited for long is looked for less often: the processor is the agents'. At most 2 % of a wait is lost."""


class AgentLanes(DeclaredLanes):
    """A ``LanePort`` that is learned from through its ``feed``; its state is what comes next.

    Args:
        shards: hold what is pushed, instead of the log that ``reader`` reads.
        reader_of: reads what was pushed to another run.
    """

    def __init__(
        self,
        run: Run,
        reader: ExperienceReader,
        control: Control,
        patience: Patience,
        shards: ReplayShards | None = None,
        reader_of: Callable[[str], ExperienceReader] | None = None,
    ) -> None:
        spec = run.spec
        observation, action, mask_len = spaces_of(spec.environment.contract)
        on_policy, plan = spec.algorithm in ON_POLICY, spec.experience
        assert plan is not None
        super().__init__(observation, action, mask_len, spec.environment.lanes if on_policy else 1)
        self._run_id, self._control, self._patience = run.run_id, control, patience
        self._since: float | None = None
        self._check: Callable[[], None] | None = None
        staleness = plan.max_staleness if on_policy and not plan.synchronous else None
        self.shards = shards
        self.feed = (
            Feed(reader, ChunkCodec(observation, action, mask_len), self._wait, staleness, reader_of)
            if shards is None
            else ShardFeed(shards, self._wait)
        )

    def reset(self, lanes: Sequence[int], seeds: Sequence[int | None]) -> Start:
        """See ``LanePort``: rows that nobody learns from."""
        masks = np.ones((len(lanes), self.mask_len), bool) if self.mask_len else None
        return Start(_nothing(self.observation_space, len(lanes)), masks)

    def snapshot(self) -> Sequence[bytes]:  # type: ignore[override]
        """See ``LanePort``."""
        return [pack({"run_id": self._run_id, "feed": self.feed.captured()})]

    def restore(self, states: Sequence[bytes]) -> Start:
        """See ``LanePort``."""
        kept = unpack(states[0])
        if kept["run_id"] == self._run_id:
            self.feed.put_back(kept["feed"])
        elif isinstance(self.feed, Feed):  # another run's log lies elsewhere; this one begins with its own
            self.feed.inherit(kept["run_id"], kept["feed"])
        return self.reset(range(self.lanes), [])

    def came(self) -> None:
        """What was waited for is there."""
        self._since = None
        if self._check is not None:
            self._check = None
            self._patience.resumed()

    def hold(self, reason: str) -> None:
        """A shard is away in the middle of learning; called until it is back, which ``came`` says.

        The run may end here, too: the gradient steps of this rollout that were not taken are all that it loses.
        """
        self._hold(reason, _RETRY)

    def close(self) -> None:
        """See ``LanePort``."""
        if self.shards is not None:
            self.shards.close()

    def _wait(self, seconds: float, there: int, wanted: int) -> None:
        """Whatever was not taken yet is read again, so this is a boundary: the run may end here and go on later."""
        away = self.shards.away if self.shards is not None else ""
        waited = 0.0 if self._since is None else time.monotonic() - self._since
        seconds = max(seconds, min(_PATIENCE * waited, _LONGEST)) if seconds else 0.0
        self._hold(away or f"agents: {there} of {wanted} steps came", seconds)

    def _hold(self, reason: str, seconds: float) -> None:
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        if self._check is None and now - self._since > _QUIET:
            self._check = self._patience.waiting(reason)
        self._control.moved()
        if self._control.urgent:
            self._control.obey_now()
        if self._control.command:
            raise EndedEarly(self._control.command, at_boundary=True)
        self._control.pause(seconds)


def _nothing(space: AnySpace, count: int) -> Obs:
    if isinstance(space, spaces.Dict):
        return {key: _leaf(leaf, count) for key, leaf in space.spaces.items()}
    return _leaf(space, count)


def _leaf(space: AnySpace, count: int) -> npt.NDArray[Any]:
    return np.zeros((count, *(space.shape or ())), space.dtype)
