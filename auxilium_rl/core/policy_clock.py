"""Whether a policy changed, as seen by one thread that asks the registry for all who want to know."""

from __future__ import annotations

import threading
import time

from auxilium_rl.core.errors import AuxiliumError
from auxilium_rl.core.policy_ports import PolicyRegistry

__all__ = ["PolicyClock"]


class PolicyClock:
    """A number that rises with every change of a policy, by whatever process, at most ``interval`` seconds late.

    Asks the registry only while somebody has wanted to know within the last ``idle`` seconds. While the database is
    away the number stays.
    """

    def __init__(self, registry: PolicyRegistry, *, interval: float = 0.02, idle: float = 5.0) -> None:
        self._registry, self._interval, self._idle = registry, interval, idle
        self._changed = threading.Condition()
        self._value: int | None = None
        self._asked_at = self._wanted_at = -float("inf")
        self._waiting = 0
        self._closed = False
        self._thread = threading.Thread(target=self._loop, name="policy-clock", daemon=True)

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def close(self) -> None:
        """End, and wake whoever waits."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def now(self) -> int:
        """The number. Raises StoreUnavailable when it was never known."""
        now = time.monotonic()
        fresh = now - self._wanted_at < self._idle and now - self._asked_at < self._idle
        self._wanted_at = now
        if not fresh or self._value is None:
            self.look()
            with self._changed:
                self._changed.notify_all()
        assert self._value is not None
        return self._value

    def look(self) -> None:
        """Ask now, for one who changed something itself. Raises StoreUnavailable when the number was never known."""
        try:
            value = self._registry.change()
        except AuxiliumError:
            if self._value is None:
                raise
            return
        self._asked_at = time.monotonic()
        with self._changed:
            if self._value is None or value > self._value:  # another who asked meanwhile may know better
                self._value = value
                self._changed.notify_all()

    def wait(self, seen: int, alive: threading.Event) -> int | None:
        """The number when it is no longer ``seen``; None when ``alive`` is cleared or this ends."""
        with self._changed:
            self._waiting += 1
            self._changed.notify_all()
            try:
                self._changed.wait_for(lambda: self._closed or not alive.is_set() or self._value != seen)
            finally:
                self._waiting -= 1
            return None if self._closed or not alive.is_set() else self._value

    def wake(self) -> None:
        """Make everybody who waits look whether its caller has gone."""
        with self._changed:
            self._changed.notify_all()

    def _loop(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._wanted())
                if self._closed:
                    return
                self._changed.wait_for(lambda: self._closed, timeout=self._interval)
            try:
                self.look()
            except AuxiliumError:  # health says so; whoever asks next hears it
                self._wanted_at = -float("inf")

    def _wanted(self) -> bool:
        return bool(self._waiting) or time.monotonic() - self._wanted_at < self._idle
