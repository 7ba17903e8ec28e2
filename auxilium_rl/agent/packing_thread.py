"""The thread that makes chunks of steps, and puts them into the outbox."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from auxilium_rl.agent.backlog import Backlog
from auxilium_rl.agent.episode import Rows
from auxilium_rl.agent.outbox import Outbox
from auxilium_rl.agent.packing import Packer

__all__ = ["PackingThread"]

_log = structlog.get_logger(__name__)


class PackingThread:
    """Packs a chunk when enough steps wait, or ``seconds`` have passed.

    Attributes:
        packer: what it packs with.
        fault: why the last chunk could not be packed; it is tried again.

    Args:
        most: steps of a chunk.
        seconds: 0: never, unless there are enough.
        is_over: whether nothing more will be sent.
    """

    def __init__(
        self, backlog: Backlog, packer: Packer, outbox: Outbox, most: int, seconds: float, is_over: Callable[[], bool]
    ) -> None:
        self._backlog, self.packer, self._outbox = backlog, packer, outbox
        self._most, self._seconds, self._is_over = most, seconds, is_over
        self._work = threading.Condition()
        self._closed = self._forced = self._at_once = False
        self._held: list[Rows] = []
        self.fault: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="agent-packing", daemon=True)
        self._thread.start()

    @property
    def held(self) -> int:
        """Steps that were taken and could not be packed."""
        return sum(rows.steps for rows in self._held)

    def wake(self, *, at_once: bool = False) -> None:
        """There may be work; ``at_once``: what can be sent is, also less than a chunk."""
        with self._work:
            self._at_once = self._at_once or at_once
            self._work.notify_all()

    def force(self) -> None:
        """Have everything packed that can be; rewards that were not said are 0."""
        with self._work:
            self._forced = True
            self._work.notify_all()
            self._work.wait_for(lambda: not self._forced or self._closed)

    def close(self) -> None:
        """Pack what can be sent, and end."""
        with self._work:
            self._closed = True
            self._work.notify_all()
        self._thread.join()

    def _run(self) -> None:
        idle = True
        while True:
            with self._work:
                hurry = self._forced or self._closed or self._at_once
                if not hurry and (idle or self._backlog.steps < self._most):
                    self._work.wait(self._seconds or None)
                forced, closed = self._forced, self._closed
                rest, self._at_once = closed or self._at_once, False
            before = self._outbox.next_seq
            self._pack_all(force=forced, rest=rest)
            idle = self._outbox.next_seq == before  # steps that wait for their rewards are no work
            with self._work:
                if forced:
                    self._forced = False
                    self._work.notify_all()
            if closed:
                return

    def _pack_all(self, *, force: bool, rest: bool) -> None:
        try:
            while self._pack(force=force) and (force or rest or self._backlog.steps >= self._most):
                pass  # else what came while the chunk was packed would be a small one, and cost whoever acts as much
            self.fault = None
        except Exception as error:  # noqa: BLE001 - what is here must not be forgotten because one chunk failed
            if self.fault is None:
                _log.exception("packing_failed")
            self.fault = error

    def _pack(self, *, force: bool) -> bool:
        """Pack one chunk; whether there may be more."""
        if self._is_over() or (self._outbox.is_full and not force):
            return False
        if not self._held:  # what could not be packed last time is tried again, before what came after it
            self._held = self._backlog.take(self._most, force=force)
        request = self.packer.pack(self._outbox.next_seq, self._held) if self._held else None
        self._held = []
        self._backlog.settle()  # when what was taken is packed: it lies there until then
        if request is None:
            return False
        self._outbox.put(request)
        return request.chunk.count >= self._most or force
