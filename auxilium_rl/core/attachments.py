"""Simulators that dialled in, as the server knows them: who is attached to which run. Free of any transport."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone

__all__ = ["Attached", "AttachedInfo", "Introduction"]

_WINDOW = 5.0


@dataclass(frozen=True)
class Introduction:
    """What a simulator says of itself when it dials in."""

    experiment_id: str
    session_id: str
    resume_token: bytes
    lanes: int
    lease: float
    component: str
    version: str
    language: str
    peer: str


@dataclass(frozen=True)
class AttachedInfo:
    """A simulator at one moment.

    Attributes:
        requests_per_second: over the last seconds, on the stream; a fast lane is not counted here.
        connected: else it is away, within its lease.
        role: ``training``, ``spare`` or ``waiting``.
    """

    session_id: str
    peer: str
    component: str
    version: str
    language: str
    lanes: int
    since: datetime
    requests_per_second: float
    connected: bool
    role: str


@dataclass
class Attached:
    """One simulator of one run. Guarded by its gateway's lock, but for ``frame``."""

    run_id: str
    intro: Introduction
    close_stream: Callable[[], None]
    since: datetime = field(default_factory=lambda: datetime.now(timezone.utc))
    connected: bool = True
    left_at: float = 0.0
    role: str = "waiting"
    _frames: deque[float] = field(default_factory=lambda: deque(maxlen=4096))

    def frame(self) -> None:
        """A request has passed."""
        self._frames.append(time.monotonic())

    def expired(self) -> bool:
        """Whether it has been away for longer than its lease."""
        return not self.connected and time.monotonic() - self.left_at > self.intro.lease

    def info(self) -> AttachedInfo:
        """As others see it."""
        now, intro = time.monotonic(), self.intro
        recent = sum(1 for at in list(self._frames) if now - at < _WINDOW)
        return AttachedInfo(
            intro.session_id,
            intro.peer,
            intro.component,
            intro.version,
            intro.language,
            intro.lanes,
            self.since,
            round(recent / _WINDOW, 1),
            self.connected,
            self.role,
        )
