"""Watching a live environment: what it did last is pushed to whoever subscribed; the session never waits for them."""

from __future__ import annotations

import io
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grpc

from auxilium_rl.wire.spaces import Leaf
from generated.simulation.v2 import simulation_pb2 as pb

__all__ = ["Observatory", "png_of"]

_MAX_HZ = 1000.0


class _News:
    """The last thing that happened."""

    def __init__(self, seq: int, transition: pb.Transition, step: pb.Step | None, frames: dict[int, bytes]) -> None:
        self.seq, self.transition, self.step, self.frames = seq, transition, step, frames


class Observatory:
    """Who watches, and what there is to see.

    Args:
        leaves: of an observation, in order.
        lanes: how many there are.
        can_render: whether frames can be had.
        max_watchers: at once; one more is refused.
    """

    def __init__(self, leaves: Sequence[Leaf], lanes: int, *, can_render: bool, max_watchers: int = 16) -> None:
        self._leaves, self._lanes, self._can_render = leaves, lanes, can_render
        self._changed = threading.Condition()
        self._news: _News | None = None
        self._count = 0
        self._rendering: dict[object, tuple[int, float]] = {}
        self._slots = threading.Semaphore(max_watchers)
        self._watching = 0
        self._ended = False

    def publish(self, seq: int, transition: pb.Transition, step: pb.Step | None, frame: Callable[[int], bytes]) -> None:
        """Something happened. Frames are drawn only for those who want one now; ``frame`` gives a lane's PNG."""
        if not self._watching:
            return
        now = time.monotonic()
        with self._changed:
            due = {lane for lane, at in self._rendering.values() if at <= now}
        frames = {lane: frame(lane) for lane in due}
        with self._changed:
            self._news = _News(seq, transition, step, frames)
            self._count += 1
            self._changed.notify_all()

    def close(self) -> None:
        """End every watcher's stream."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def watch(self, request: pb.ObserveRequest, context: grpc.ServicerContext) -> Iterator[pb.Observed]:
        """What happens from now on, at most ``max_hz`` times a second; what is replaced meanwhile is not shown."""
        wanted = self._checked(request, context)
        if not self._slots.acquire(blocking=False):
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "as many watch this simulator as may")
        gone, me = threading.Event(), object()

        def left() -> None:
            gone.set()
            with self._changed:
                self._changed.notify_all()

        pause = 0.0 if request.max_hz <= 0 else 1.0 / min(request.max_hz, _MAX_HZ)
        try:
            if not context.add_callback(left):
                return
            with self._changed:
                self._watching += 1
                seen = self._count
            next_at = 0.0
            while True:
                self._wish(me, request, next_at)
                news, seen = self._next(seen, next_at, gone, request.render)
                if news is None:
                    return
                next_at = time.monotonic() + pause
                yield self._shown(news, request, wanted)
        finally:
            with self._changed:
                self._watching -= 1
                self._rendering.pop(me, None)
            self._slots.release()

    def _wish(self, me: object, request: pb.ObserveRequest, at: float) -> None:
        if request.render:
            with self._changed:
                self._rendering[me] = (request.lanes[0] if request.lanes else 0, at)

    def _next(self, seen: int, at: float, gone: threading.Event, render: bool) -> tuple[_News | None, int]:
        """The newest that this watcher has not seen, no sooner than ``at``."""
        with self._changed:
            while True:
                if self._ended or gone.is_set():
                    return None, seen
                wait = at - time.monotonic()
                fresh = self._count != seen and (not render or bool(self._news and self._news.frames))
                if fresh and wait <= 0:
                    return self._news, self._count
                self._changed.wait(wait if wait > 0 else None)

    def _checked(self, request: pb.ObserveRequest, context: grpc.ServicerContext) -> list[int]:
        """Which leaves are wanted."""
        for lane in request.lanes:
            if lane >= self._lanes:
                context.abort(
                    grpc.StatusCode.INVALID_ARGUMENT, f"lanes: {lane} given; 0 to {self._lanes - 1} are accepted"
                )
        if not 0 <= request.max_hz < math.inf:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"max_hz: {request.max_hz} given; 0 or more is accepted")
        names = [leaf.key for leaf in self._leaves]
        for key in request.keys:
            if key not in names:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"keys: '{key:.40}' given; {names} are accepted")
        if request.render and not self._can_render:
            context.abort(
                grpc.StatusCode.FAILED_PRECONDITION,
                "render: true given, but the environment was made without render_mode 'rgb_array'",
            )
        return [number for number, leaf in enumerate(self._leaves) if not request.keys or leaf.key in request.keys]

    def _shown(self, news: _News, request: pb.ObserveRequest, wanted: Sequence[int]) -> pb.Observed:
        """What one watcher asked for of the news."""
        whole = news.transition
        covered = list(whole.lanes) or list(range(self._lanes))
        rows = [row for row, lane in enumerate(covered) if not request.lanes or lane in request.lanes]
        shown = pb.Transition(
            obs=[_rows(whole.obs[number], self._leaves[number].row_bytes, rows) for number in wanted],
            reward=_rows(whole.reward, 4, rows),
            terminated=_rows(whole.terminated, 1, rows),
            truncated=_rows(whole.truncated, 1, rows),
            lanes=[covered[row] for row in rows],
        )
        if request.render:
            shown.render_png = news.frames.get(request.lanes[0] if request.lanes else 0, b"")
        observed = pb.Observed(seq=news.seq, transition=shown)
        if news.step is not None:
            observed.step.CopyFrom(news.step)
        return observed


def _rows(slab: bytes, size: int, rows: Sequence[int]) -> bytes:
    return b"".join(slab[row * size : (row + 1) * size] for row in rows)


def png_of(picture: Any) -> bytes:
    """An RGB array ``(height, width, 3)`` uint8 as PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()
