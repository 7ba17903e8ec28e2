"""The states of a run and the edges between them: the table that the registry's compare-and-set obeys.

The picture is in ``docs/architecture.md``.
"""

from __future__ import annotations

from enum import Enum

__all__ = ["ACTIVE", "EDGES", "TERMINAL", "RunState", "sources_of"]


class RunState(str, Enum):
    """A state of a run; the value is what SQL stores."""

    QUEUED = "QUEUED"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    WAITING = "WAITING"
    PAUSED = "PAUSED"
    INTERRUPTED = "INTERRUPTED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    STOPPED = "STOPPED"

    def __str__(self) -> str:
        return self.value


_S = RunState
TERMINAL = frozenset({_S.SUCCEEDED, _S.FAILED, _S.STOPPED})
"""States that never change."""
ACTIVE = frozenset({_S.STARTING, _S.RUNNING, _S.WAITING})
"""States in which a worker holds the run."""

_LEAVES = frozenset({_S.PAUSED, _S.INTERRUPTED, _S.FAILED, _S.STOPPED})
EDGES: dict[RunState, frozenset[RunState]] = {
    _S.QUEUED: frozenset({_S.STARTING, _S.PAUSED, _S.STOPPED, _S.FAILED}),
    _S.STARTING: _LEAVES | {_S.RUNNING, _S.WAITING},
    _S.RUNNING: _LEAVES | {_S.WAITING, _S.SUCCEEDED},
    _S.WAITING: _LEAVES | {_S.RUNNING, _S.SUCCEEDED},  # for its store, to say that it has ended
    _S.PAUSED: frozenset({_S.QUEUED, _S.STOPPED}),
    _S.INTERRUPTED: frozenset({_S.STARTING, _S.PAUSED, _S.FAILED, _S.STOPPED}),
    _S.SUCCEEDED: frozenset(),
    _S.FAILED: frozenset(),
    _S.STOPPED: frozenset(),
}
"""Every legal edge: from a state to the states it may become."""


def sources_of(target: RunState) -> frozenset[RunState]:
    """The states from which ``target`` may be entered."""
    return frozenset(state for state, targets in EDGES.items() if target in targets)
