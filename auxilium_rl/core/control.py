"""What the outside wishes of a worker, or forces on it. Only workers import this."""

from __future__ import annotations

import threading
import time

from auxilium_rl.core.errors import LeaseLost, LimitExceeded

__all__ = ["Control", "EndedEarly"]

_COMMANDS = ("stop", "stop_now", "pause", "go_on", "interrupt")


class EndedEarly(Exception):
    """Unwinds ``learn()``; ``command`` says on whose wish, ``at_boundary`` whether a run can go on from there."""

    def __init__(self, command: str, *, at_boundary: bool = False) -> None:
        super().__init__(command)
        self.command, self.at_boundary = command, at_boundary


class Control:
    """Set from the threads that listen, read by the one that learns.

    Attributes:
        command: "" | ``stop`` | ``pause`` | ``interrupt``: what is to be done at the next learning boundary.
        stopped_why: ends the sentence "stopped …" when the command is ``stop``.
        urgent: the learner must look here after its next step, by ``obey_now``.
        moved_at: when the last step was taken, or waiting ended; ``time.monotonic()``.
        waiting: the run waits for something outside, and need not move.
    """

    def __init__(self) -> None:
        self.command = ""
        self.stopped_why = "on request"
        self.urgent = False
        self.lease_lost = False
        self.moved_at = time.monotonic()
        self.waiting = False
        self._now = False
        self._exceeded = ""
        self._doubtful = False
        self._changed = threading.Condition()

    def tell(self, command: str) -> None:
        """Note a wish: ``stop``, ``stop_now`` (which does not wait for a learning boundary), ``pause``, ``go_on`` (no
        pause any more) or ``interrupt``. What ends the run cannot be taken back.
        """
        if command not in _COMMANDS:
            raise ValueError(f"unknown command {command!r}")
        with self._changed:
            if command == "stop_now":
                self._now = self.urgent = True
            if command == "go_on":
                self.command = "" if self.command == "pause" else self.command
            elif command != "pause" or not self.command:
                self.command = "stop" if command == "stop_now" else command
            self._changed.notify_all()

    def moved(self) -> None:
        """A step was taken, be it in an evaluation."""
        self.moved_at = time.monotonic()

    def time_is_up(self, seconds: float) -> None:
        """The run took as long as it may: its model is saved at the next boundary."""
        if not self.command:
            self.stopped_why = f"at its limit of {seconds:g} s"
            self.tell("stop")

    def exceed(self, message: str) -> None:
        """The run took more than it may, and ends at the next step."""
        with self._changed:
            self._exceeded, self.urgent = message, True
            self._changed.notify_all()

    def lose_lease(self) -> None:
        """The registry refused a write: the run belongs to another worker."""
        with self._changed:
            self.lease_lost = self.urgent = True
            self._changed.notify_all()

    def doubt(self) -> None:
        """Nobody can say whether the run still is this worker's: it takes no step until ``be_sure``."""
        with self._changed:
            self._doubtful = self.urgent = True

    def be_sure(self) -> None:
        """The run is this worker's."""
        with self._changed:
            self._doubtful = False
            self.urgent = self._now or self.lease_lost or bool(self._exceeded)
            self._changed.notify_all()

    def obey_now(self) -> None:
        """What cannot wait for a boundary. Raises LeaseLost, LimitExceeded or EndedEarly; waits while in doubt."""
        self.waiting = self._doubtful
        with self._changed:
            self._changed.wait_for(lambda: not self._doubtful or self._must_end())
        self.waiting, self.moved_at = False, time.monotonic()
        self.check()
        if self._now or (self._doubtful and self.command == "interrupt"):
            raise EndedEarly(self.command)

    def pause(self, seconds: float) -> None:
        """Wait, but no longer than until the run must end. Raises LeaseLost, LimitExceeded or EndedEarly."""
        with self._changed:
            self._changed.wait_for(self._must_end, seconds)
        self.check()
        if self._now or self.command == "interrupt":
            raise EndedEarly(self.command)

    def check(self) -> None:
        """Raises LeaseLost or LimitExceeded."""
        if self.lease_lost:
            raise LeaseLost("another worker holds this run")
        if self._exceeded:
            raise LimitExceeded(self._exceeded)

    def _must_end(self) -> bool:
        return self.lease_lost or bool(self._exceeded) or self._now or self.command == "interrupt"
