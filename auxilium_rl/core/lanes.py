"""What the learner needs of environments. ``infra`` implements it; only workers import this."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from auxilium_rl.wire.rows import AnySpace, Start, Transition

__all__ = ["LanePort", "Patience", "SessionMemory", "StepsWhenWaitedFor"]


class LanePort(Protocol):
    """Environments that are stepped together; the learner's only way to a simulator.

    Attributes:
        lanes: how many; fewer after it raised ``LanesLost``.
        observation_space, action_space: Discrete and MultiDiscrete counted from 0.
        native_observation, native_action: as the environment has them, ``start`` included.
        mask_len: length of an action mask; 0: there is none.
    """

    observation_space: AnySpace
    action_space: AnySpace
    native_observation: AnySpace
    native_action: AnySpace
    mask_len: int

    @property
    def lanes(self) -> int:
        """See the attributes."""

    def reset(self, lanes: Sequence[int], seeds: Sequence[int | None]) -> Start:
        """Begin episodes on ``lanes``. A seed of None means: go on with the lane's own random stream.

        Raises:
            EnvironmentLost: the simulator cannot be reached within its time.
            SimulatorError: it answered with an error.
            ContractViolation: wrong length, NaN or infinity; names the lane and the index.
            LanesLost: some lanes are gone for good; nothing was reset.
        """

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        """Begin to advance every lane by one step; ``actions`` is ``(lanes, *shape)``.

        Returns as soon as it can, so that the learner works while the simulator does. What fails, ``step_wait`` raises.
        """

    def step_wait(self) -> Transition:
        """The outcome of the step that ``step_async`` began. Raises as ``reset`` does."""

    def snapshot(self) -> Sequence[bytes] | None:
        """The whole state of every lane, between two steps; None: it cannot be taken. Raises as ``reset`` does."""

    def restore(self, states: Sequence[bytes]) -> Start:
        """Bring every lane to what an equal port's ``snapshot`` gave.

        Raises as ``reset`` does; SimulatorError, InvalidTree: these states are not of such lanes.
        """

    def close(self) -> None:
        """Give back what this side holds. Does not send the unary ``Close``: the server owes that (see RunRegistry)."""


class StepsWhenWaitedFor:
    """Half a ``LanePort``: of one that takes a whole step in ``step``, when it is waited for.

    The state of its lanes cannot be taken, unless a subclass says how.
    """

    _actions: npt.NDArray[Any] = np.empty(0)

    def step(self, actions: npt.NDArray[Any]) -> Transition:
        """Advance every lane by one step; ``actions`` is ``(lanes, *shape)``. Raises as ``LanePort.step_wait`` does."""
        raise NotImplementedError

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        """See ``LanePort.step_async``."""
        self._actions = actions

    def step_wait(self) -> Transition:
        """See ``LanePort.step_wait``."""
        return self.step(self._actions)

    def snapshot(self) -> Sequence[bytes] | None:
        """See ``LanePort.snapshot``."""
        return None

    def restore(self, states: Sequence[bytes]) -> Start:
        """See ``LanePort.restore``."""
        raise NotImplementedError(f"{len(states)} states given, but {type(self).__name__} takes none")


class Patience(Protocol):
    """What a port does while its simulator is away."""

    def waiting(self, reason: str) -> Callable[[], None]:
        """The simulator is away. Gives a check to call before each attempt: it raises when waiting must end."""

    def resumed(self) -> None:
        """The simulator is back."""

    def pause(self, seconds: float) -> None:
        """Wait a little; raises when the run is told to end."""


class SessionMemory(Protocol):
    """How a run's next worker finds back to the simulator's session of this one."""

    def recall(self) -> tuple[str, bytes]:
        """The session's id and resume token; empty: there was none."""

    def remember(self, session_id: str, resume_token: bytes) -> None:
        """Note them."""
