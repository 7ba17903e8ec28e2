"""What ``WatchRun`` follows: one thread reads the watched runs and hands every watcher what is new."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from auxilium_rl.core.dto import MetricPoint, Run
from auxilium_rl.core.errors import AuxiliumError, RunNotFound, StreamsExhausted
from auxilium_rl.core.ports import MetricStore, RunRegistry
from auxilium_rl.core.states import TERMINAL

__all__ = ["RunFeed", "RunUpdate"]

_BATCH = 1000


@dataclass(frozen=True)
class RunUpdate:
    """A change: the run when it changed, and the metrics that are new."""

    run: Run | None
    metrics: Sequence[MetricPoint]


class RunFeed:
    """Turns the registry, which is only ever asked, into streams.

    Args:
        interval: seconds between two looks at the registry.
        capacity: watchers served at once.
    """

    def __init__(
        self, registry: RunRegistry, metrics: MetricStore, *, interval: float = 0.25, capacity: int = 128
    ) -> None:
        self._registry, self._metrics = registry, metrics
        self._interval, self._capacity = interval, capacity
        self._slots = threading.Semaphore(capacity)
        self._changed = threading.Condition()
        self._snapshots: dict[str, Run] = {}
        self._watchers: dict[str, int] = {}
        self._deleted: set[str] = set()
        self._closed = False
        self._thread = threading.Thread(target=self._loop, name="run-feed", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def close(self) -> None:
        """End every stream."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def watch(self, run_id: str, after_metric_id: int, alive: threading.Event) -> Iterator[RunUpdate]:
        """The run, its metrics so far, the run again (that ends the history), then changes until it ends.

        Args:
            alive: cleared when the caller has gone; ``wake`` makes the stream look at it.

        Raises:
            RunNotFound: at once, or when the run is deleted.
            StreamsExhausted: too many watchers.
        """
        if not self._slots.acquire(blocking=False):
            raise StreamsExhausted(f"{self._capacity} streams are open; MAX_WATCH_STREAMS bounds them")
        try:
            yield from self._follow(run_id, after_metric_id, alive)
        finally:
            self._slots.release()

    def wake(self) -> None:
        """Make every stream look whether its caller has gone."""
        with self._changed:
            self._changed.notify_all()

    def _follow(self, run_id: str, last: int, alive: threading.Event) -> Iterator[RunUpdate]:
        run = self._registry.get(run_id)
        yield RunUpdate(run, ())
        history_sent = False
        self._enter(run_id, run)
        try:
            while True:
                points = self._metrics.since(run_id, last, _BATCH)
                if points:
                    last = points[-1].id
                    yield RunUpdate(None, points)
                    continue
                if not history_sent:
                    history_sent = True
                    yield RunUpdate(run, ())
                if run.state in TERMINAL:
                    return
                newer = self._wait(run_id, run, alive)
                if newer is None:
                    return
                if newer.state in TERMINAL:  # the metrics that came before the end are told before it
                    yield from self._rest(run_id, last)
                    yield RunUpdate(newer, ())
                    return
                run = newer
                yield RunUpdate(run, ())
        finally:
            self._leave(run_id)

    def _rest(self, run_id: str, last: int) -> Iterator[RunUpdate]:
        while points := self._metrics.since(run_id, last, _BATCH):
            last = points[-1].id
            yield RunUpdate(None, points)

    def _wait(self, run_id: str, known: Run, alive: threading.Event) -> Run | None:
        """The run when it is no longer as ``known``; None when the stream ends."""
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._closed
                    or not alive.is_set()
                    or run_id in self._deleted
                    or self._snapshots.get(run_id, known) != known
                )
            )
            if run_id in self._deleted:
                raise RunNotFound(run_id)
            return None if self._closed or not alive.is_set() else self._snapshots[run_id]

    def _enter(self, run_id: str, run: Run) -> None:
        with self._changed:
            self._watchers[run_id] = self._watchers.get(run_id, 0) + 1
            self._snapshots.setdefault(run_id, run)
            self._changed.notify_all()

    def _leave(self, run_id: str) -> None:
        with self._changed:
            self._watchers[run_id] -= 1
            if not self._watchers[run_id]:
                del self._watchers[run_id]
                self._snapshots.pop(run_id, None)
                self._deleted.discard(run_id)

    def _loop(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._watchers)
                if self._closed:
                    return
                self._changed.wait_for(lambda: self._closed, timeout=self._interval)
                watched = list(self._watchers)
            self._look(watched)

    def _look(self, watched: Sequence[str]) -> None:
        fresh, gone = {}, set()
        try:
            for run_id in watched:
                try:
                    fresh[run_id] = self._registry.get(run_id)
                except RunNotFound:
                    gone.add(run_id)
        except AuxiliumError:  # the database is away: health says so, and streams wait
            return
        with self._changed:
            self._deleted |= gone & self._watchers.keys()
            for run_id, run in fresh.items():
                if run_id in self._watchers:
                    self._snapshots[run_id] = run
            self._changed.notify_all()
