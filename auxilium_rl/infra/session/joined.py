"""The lanes of several simulators as one ``LanePort``: stepped at the same time, and replaced when one is gone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import structlog

from auxilium_rl.core.errors import LanesLost
from auxilium_rl.infra.session.connection import Gone
from auxilium_rl.infra.session.lanes import SessionLanes
from auxilium_rl.wire.rows import Obs, Start, Transition, concat_rows

__all__ = ["JoinedLanes"]

_log = structlog.get_logger(__name__)


class JoinedLanes:
    """Simulators with the same spaces, one after another.

    A simulator that is gone for good is replaced by a spare, whose episodes are new: those of the old one end truncated
    where they were seen last. Without a spare the others go on alone, as long as ``min_lanes`` are left
    (``LanesLost``: the learner must take the new number of lanes); else a new simulator is waited for.

    Args:
        replacement: a simulator instead of one that is gone; waits for it where told to; None: there is none now.
    """

    def __init__(
        self,
        members: Sequence[SessionLanes],
        replacement: Callable[[SessionLanes, bool], SessionLanes | None],
        min_lanes: int,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        self._members = list(members)
        self._replacement = replacement
        self._min_lanes = min_lanes
        self._on_close = on_close
        first = members[0]
        self.observation_space, self.action_space = first.observation_space, first.action_space
        self.native_observation, self.native_action = first.native_observation, first.native_action
        self.mask_len = first.mask_len
        self._pool = ThreadPoolExecutor(max_workers=32, thread_name_prefix="simulators")

    @property
    def lanes(self) -> int:
        """How many there are now; fewer after ``LanesLost``."""
        return sum(member.lanes for member in self._members)

    def reset(self, lanes: Sequence[int], seeds: Sequence[int | None]) -> Start:
        """See ``LanePort.reset``. Raises LanesLost as well."""
        shares: list[tuple[list[int], list[int | None]]] = []
        first = 0
        for member in self._members:
            mine = [(n - first, seed) for n, seed in zip(lanes, seeds, strict=True) if 0 <= n - first < member.lanes]
            shares.append(([n for n, _ in mine], [seed for _, seed in mine]))
            first += member.lanes
        asked = [
            (number, lambda member=member, share=share: member.reset(*share))
            for number, (member, share) in enumerate(zip(self._members, shares, strict=True))
            if share[0]
        ]
        answers = dict(zip([number for number, _ in asked], self._all([task for _, task in asked]), strict=True))
        for number, answer in answers.items():
            if isinstance(answer, Gone):
                self._substitute(number, answer)
                answers[number] = self._members[number].reset(*shares[number])
        starts = [answers[number] for number in sorted(answers)]
        masks = None if starts[0].masks is None else np.concatenate([start.masks for start in starts])
        # Members are in order of lanes; a caller that asks in another order gets it.
        order = np.argsort(np.argsort(np.asarray(lanes)))
        whole = Start(concat_rows([start.observations for start in starts]), masks)
        return whole if (order == np.arange(len(order))).all() else whole.in_order(order)

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        """See ``LanePort.step_async``."""
        first = 0
        for member in self._members:
            member.step_async(actions[first : first + member.lanes])
            first += member.lanes

    def step_wait(self) -> Transition:
        """See ``LanePort.step_wait``. Raises LanesLost as well."""
        answers = self._all([member.step_wait for member in self._members])
        for number, answer in enumerate(answers):
            if isinstance(answer, Gone):
                last = self._members[number].last
                self._substitute(number, answer)
                answers[number] = self._members[number].begun_after(last, str(answer))
        return answers[0] if len(answers) == 1 else _joined(answers)

    def snapshot(self) -> Sequence[bytes] | None:
        """See ``LanePort.snapshot``. Not taken: the next worker may find other simulators, in another order."""
        return None

    def restore(self, states: Sequence[bytes]) -> Start:
        """Never asked for: ``snapshot`` gives none."""
        raise NotImplementedError(f"{len(states)} states given, but joined lanes take none")

    def close(self) -> None:
        """Close every session: the simulators hear that the run has ended."""
        for member in self._members:
            member.close()
        self._pool.shutdown(wait=False)
        self._on_close()

    def _all(self, tasks: Sequence[Callable[[], Any]]) -> list[Any]:
        """The results, or ``Gone`` where a simulator is. Raises what else went wrong, after all have ended."""
        futures = [self._pool.submit(task) for task in tasks[1:]]
        results = [_result_of(tasks[0]), *(_result_of(future.result) for future in futures)]
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, Gone):
                raise result
        return results

    def _substitute(self, number: int, gone: Gone) -> None:
        """Put another simulator in the place of one that is gone. Raises LanesLost."""
        member = self._members[number]
        spare = self._replacement(member, False)
        left = self.lanes - member.lanes
        if spare is None and left >= max(self._min_lanes, 1):
            del self._members[number]
            member.close()
            _log.warning("lanes_lost", lost=member.lanes, left=left, reason=str(gone))
            raise LanesLost(f"{gone}; {left} lanes go on", member.lanes)
        if spare is None:
            spare = self._replacement(member, True)
        assert spare is not None
        member.close()
        _log.warning("simulator_replaced", lanes=member.lanes, reason=str(gone))
        self._members[number] = spare


def _result_of(task: Callable[[], Any]) -> Any:
    try:
        return task()
    except Exception as error:  # noqa: BLE001 - raised again by the caller, when every simulator has answered
        return error


def _joined(parts: Sequence[Transition]) -> Transition:
    """Transitions of several simulators as one."""
    finals: list[Obs] = [part.final for part in parts if part.final is not None]
    infos: list[Any] = []
    if any(part.infos for part in parts):
        for part in parts:
            infos += part.infos or [{} for _ in part.rewards]
    masks = None
    if parts[0].masks is not None:
        masks = np.concatenate([part.masks for part in parts if part.masks is not None])
    return Transition(
        concat_rows([part.observations for part in parts]),
        np.concatenate([part.rewards for part in parts]),
        np.concatenate([part.terminated for part in parts]),
        np.concatenate([part.truncated for part in parts]),
        infos,
        masks,
        concat_rows(finals) if finals else None,
    )
