"""``ShardClient``: a learner's connections to the shards of its run."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
import structlog

from auxilium_rl.core.errors import ModelCorrupt
from auxilium_rl.core.experience.layout import Layout
from auxilium_rl.core.experience.shards import SpanTold
from auxilium_rl.core.experience.transitions import Index, Transitions, concat_transitions
from auxilium_rl.infra.replay.frames import PartRefused, Shards, frame_limit, opening, reply_of
from auxilium_rl.wire.agreement import spaces_of
from auxilium_rl.wire.frames import FrameSocket
from auxilium_rl.wire.spaces import Codec, counted_from_zero
from generated.auxilium.v1 import replay_pb2 as pb

__all__ = ["ShardClient"]

_log = structlog.get_logger(__name__)
_PAUSE, _PATIENCE = 0.05, 0.1


class ShardClient:
    """``ReplayShards``; one thread for each shard follows what it has, the learner's own draws."""

    def __init__(self, shards: Shards, layout: Layout) -> None:
        observation, action, _ = spaces_of(layout.contract)
        self._rows, self._acts = Codec(counted_from_zero(observation)), Codec(counted_from_zero(action), action=True)
        self._changed = threading.Condition()
        self._followers = [_Follower(shards, layout, part, self._changed) for part in range(layout.parts)]
        self._lanes = [_DrawLane(shards, layout, part) for part in range(layout.parts)]
        row = sum(leaf.row_bytes for leaf in (*self._rows.leaves, *self._rows.leaves, *self._acts.leaves)) + 8
        self._at_once = max(frame_limit(shards.limit) // 2 // row, 1)
        self._asked: deque[list[int]] = deque()

    @property
    def count(self) -> int:
        """See ``ReplayShards``."""
        return len(self._lanes)

    @property
    def away(self) -> str:
        """See ``ReplayShards``."""
        with self._changed:
            return "; ".join(one.away for one in self._followers if one.away)

    def begin(self, cursors: Sequence[int]) -> None:
        """See ``ReplayShards``."""
        for one, cursor in zip(self._followers, cursors, strict=True):
            one.begin(cursor)

    def sizes(self) -> Index:
        """See ``ReplayShards``."""
        with self._changed:
            return np.array([max(one.size, 0) for one in self._followers], np.int64)

    def wait(self, steps: int, seconds: float) -> int:
        """See ``ReplayShards``."""
        with self._changed:
            self._changed.wait_for(lambda: self._steps() >= steps or self._damaged() is not None, seconds)
            damaged = self._damaged()
            if damaged is not None:
                raise damaged
            return self._steps()

    def told(self) -> tuple[list[SpanTold], list[int]]:
        """See ``ReplayShards``."""
        with self._changed:
            return [span for one in self._followers for span in one.taken()], [one.cursor for one in self._followers]

    def ask(self, places: Sequence[Index]) -> None:
        """See ``ReplayShards``. A shard of which nothing is wanted is left alone."""
        wanted: list[int] = []
        for part, mine in enumerate(places):
            for first in range(0, len(mine), self._at_once):  # no answer is larger than a frame may be
                self._lanes[part].ask(mine[first : first + self._at_once])
                wanted.append(part)
        self._asked.append(wanted)

    def answer(self, hold: Callable[[str], None]) -> Transitions:
        """See ``ReplayShards``."""
        drawn = [self._decoded(self._lanes[part].answer(hold)) for part in self._asked[0]]
        self._asked.popleft()
        return concat_transitions(drawn)

    def close(self) -> None:
        """See ``ReplayShards``."""
        for follower in self._followers:
            follower.close()
        for lane in self._lanes:
            lane.close()

    def _decoded(self, drawn: pb.RowsDrawn) -> Transitions:
        actions = self._acts.decode([drawn.actions], drawn.count)
        assert not isinstance(actions, dict)
        return Transitions(
            self._rows.decode(drawn.observations, drawn.count),
            self._rows.decode(drawn.following, drawn.count),
            actions,
            np.frombuffer(drawn.rewards, "<f4"),
            np.frombuffer(drawn.terminated, "<f4"),
        )

    def _steps(self) -> int:
        return sum(one.steps for one in self._followers) if all(one.size >= 0 for one in self._followers) else -1

    def _damaged(self) -> ModelCorrupt | None:
        return next((one.damaged for one in self._followers if one.damaged is not None), None)


class _Follower:
    """Knows what one part has, as its shard told last.

    Attributes:
        size: -1: it told nothing yet.
        cursor: spans that it told.
        away: why it does not answer; empty: it does.
    """

    def __init__(self, shards: Shards, layout: Layout, part: int, changed: threading.Condition) -> None:
        self._shards, self._layout, self._part, self._changed = shards, layout, part, changed
        self.size, self.steps, self.cursor, self.away = -1, 0, 0, ""
        self.damaged: ModelCorrupt | None = None
        self._told: list[SpanTold] = []
        self._lane: FrameSocket | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._follow, name=f"replay-follow-{part}", daemon=True)

    def begin(self, cursor: int) -> None:
        self.cursor = cursor
        self._thread.start()

    def taken(self) -> list[SpanTold]:
        """What came since this was asked last. Under the lock."""
        told, self._told = self._told, []
        return told

    def close(self) -> None:
        with self._changed:
            self._closed = True
            if self._lane is not None:
                self._lane.close()
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def _follow(self) -> None:
        while not self._closed:
            try:
                self._listen()
            except (OSError, PartRefused) as error:
                self._say_away(str(error))
            except ModelCorrupt as damaged:
                with self._changed:
                    self.damaged = damaged
                    self._changed.notify_all()
                return
            with self._changed:
                self._changed.wait_for(lambda: self._closed, _PAUSE)

    def _listen(self) -> None:
        lane = self._shards.connect(self._part)
        try:
            with self._changed:
                self._lane = lane
                if self._closed:
                    return
            lane.send(opening(self._layout, self._part, pb.PART_USE_FOLLOW, self.cursor))
            reply_of(lane)
            while True:
                self._note(reply_of(lane).state)
        finally:
            lane.close()

    def _note(self, state: pb.PartState) -> None:
        with self._changed:
            if self.away:
                _log.info("replay_shard_back", part=self._part)
            self.size, self.steps, self.cursor, self.away = state.size, state.steps, state.spans, ""
            self._told += [
                SpanTold(one.agent_id, one.incarnation, one.episode, one.start, one.count, one.rewards, one.over)
                for one in state.told
            ]
            self._changed.notify_all()

    def _say_away(self, why: str) -> None:
        with self._changed:
            if self._closed:
                return
            if not self.away:
                _log.warning("replay_shard_away", part=self._part, reason=why)
            self.away = f"replay shard {self._part} is away: {why}"


class _DrawLane:
    """Draws from one part. What was asked for of a shard that died is asked for again of its successor, which has the
    same transitions at the same places.
    """

    def __init__(self, shards: Shards, layout: Layout, part: int) -> None:
        self._shards, self._layout, self._part = shards, layout, part
        self._open: deque[bytes] = deque()
        self._lane: FrameSocket | None = None
        self._opened = False

    def ask(self, places: Index) -> None:
        frame = pb.ShardRequest(draw=pb.DrawRows(rows=places.astype("<i8").tobytes())).SerializeToString()
        self._open.append(frame)
        try:
            if self._lane is None:
                self._connect()
            else:
                self._lane.send(frame)
        except OSError:
            self._drop()  # whoever wants the answer will see to it

    def answer(self, hold: Callable[[str], None]) -> pb.RowsDrawn:
        """What was asked for first. Raises as ``hold`` does; ModelCorrupt."""
        while True:
            try:
                if self._lane is None:
                    self._connect()
                drawn = self._next()
            except TimeoutError:
                hold(f"replay shard {self._part} does not answer yet")
                continue
            except (OSError, PartRefused) as error:
                self._drop()
                hold(f"replay shard {self._part} is away: {error}")
                continue
            self._open.popleft()
            return drawn

    def close(self) -> None:
        self._drop()

    def _next(self) -> pb.RowsDrawn:
        assert self._lane is not None
        if not self._opened:
            reply_of(self._lane)
            self._opened = True
        return reply_of(self._lane).drawn

    def _connect(self) -> None:
        lane = self._shards.connect(self._part)
        lane.settimeout(_PATIENCE)
        try:
            lane.send(opening(self._layout, self._part, pb.PART_USE_SAMPLE))
            for frame in self._open:
                lane.send(frame)
        except OSError as error:  # also one that came too late: half of a frame is of no use
            lane.close()
            raise ConnectionError(str(error)) from error
        self._lane, self._opened = lane, False

    def _drop(self) -> None:
        if self._lane is not None:
            self._lane.close()
            self._lane = None
