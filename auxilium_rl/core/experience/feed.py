"""From what lies in the logs of a run to steps in the order in which they are learned from. Only workers import this.

That order is the log's, whenever it is read: a learner that goes on from a checkpoint learns the same again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

from auxilium_rl.core.errors import ModelCorrupt
from auxilium_rl.core.experience.ports import ExperienceReader, Record
from auxilium_rl.wire.chunks import ChunkCodec, Experience, Span
from auxilium_rl.wire.rows import Obs, take

__all__ = ["Counts", "Feed", "Piece"]

_SECONDS = 0.002
_READ_AHEAD = 1 << 16


@dataclass(frozen=True, slots=True)
class Piece:
    """Steps of one span, as rows ``first`` to before ``last`` of a chunk.

    Attributes:
        key: agent, incarnation and episode.
        start: number of the first step within the episode.
        terminated, truncated: the last of these steps ended the episode.
        following: the row of the chunk's ``observations`` after these steps; -1: see ``final``.
        final: the row of the chunk's ``following`` after these steps; -1: there is none, the episode terminated.
    """

    chunk: Experience
    key: tuple[str, str, int]
    start: int
    first: int
    last: int
    terminated: bool
    truncated: bool
    following: int
    final: int

    @property
    def count(self) -> int:
        """How many steps."""
        return self.last - self.first

    def after(self) -> Obs | None:
        """The observation after the last step, ``(1, *shape)``; None: the episode terminated."""
        if self.following >= 0:
            return take(self.chunk.observations, slice(self.following, self.following + 1))
        return take(self.chunk.following, slice(self.final, self.final + 1)) if self.final >= 0 else None


@dataclass
class Counts:
    """What became of steps, since the run began.

    Attributes:
        stale: were further behind than the run allows, and dropped.
        repeated: came again over another server, and were dropped.
    """

    used: int = 0
    stale: int = 0
    repeated: int = 0


class _Pending:
    """A chunk, and how far it was learned from."""

    def __init__(self, record: Record, codec: ChunkCodec, message: Any) -> None:
        self.record, self._codec = record, codec
        self.spans, self.count = codec.spans(message), int(message.count)
        self.span = self.row = self.final = 0
        self.into = 0
        """Steps of the present span that were taken."""

    @cached_property
    def chunk(self) -> Experience:
        """All of it. Before it is its turn it lies here as it came: compressed, it takes a fraction of the memory."""
        return self._codec.decode(self._codec.parse(self.record.chunk))


class Feed:
    """Steps of all agents.

    Attributes:
        version: of the policy, as the learner published it last.

    Args:
        pause: called while there are too few steps, with a time in seconds that it should take; raises when the run
            must end.
        max_staleness: None: steps of any version are learned from.
        reader_of: reads what was pushed to another run, which this one goes on from.
    """

    def __init__(
        self,
        reader: ExperienceReader,
        codec: ChunkCodec,
        pause: Callable[[float, int, int], None],
        max_staleness: int | None = None,
        reader_of: Callable[[str], ExperienceReader] | None = None,
    ) -> None:
        self._reader, self._codec, self._pause = reader, codec, pause
        self._reader_of = reader_of
        self._inherited: list[list[Any]] = []
        self._max_staleness = max_staleness
        self._pending: deque[_Pending] = deque()
        self._seen: dict[tuple[str, str], int] = {}
        self._skip: dict[str, int] = {}
        self.version, self.counts = 0, Counts()
        self._returns: dict[tuple[str, str, int], tuple[float, int]] = {}
        self._ended: list[dict[str, Any]] = []
        self._aside: list[tuple[str, list[Piece]]] = []
        self._aside_keys: set[tuple[str, str]] = set()

    def take(self, wanted: int) -> list[Piece]:
        """The next steps, ``wanted`` of them; waits for them. Raises as ``pause`` does, having taken nothing."""
        if not self._has(wanted):
            self._await(wanted)
        pieces: list[Piece] = []
        while wanted:
            piece, stale = self._next(wanted)
            self._count(piece)
            if stale:
                self.counts.stale += piece.count
            else:
                pieces.append(piece)
                wanted -= piece.count
                self.counts.used += piece.count
        return pieces

    def aside(self) -> list[tuple[str, list[Piece]]]:
        """What came for other buffers than the run's own since this was asked last, in the order of the log."""
        told, self._aside = self._aside, []
        return told

    def ended(self) -> list[dict[str, Any]]:
        """What SB3 is told of the episodes that ended since this was asked last, steps that were dropped included."""
        told, self._ended = self._ended, []
        return told

    def captured(self) -> dict[str, Any]:
        """Everything that says which steps come next; ``pack`` takes it."""
        positions = dict(self._reader.positions)
        seen = dict(self._seen)
        for pending in reversed(self._pending):
            server, _, position = pending.record.position.rpartition("/")
            positions[server] = position
            seen[pending.record.agent_id, pending.record.incarnation] = pending.record.seq - 1
        partly = self._pending[0] if self._pending and (self._pending[0].row or self._pending[0].span) else None
        return {
            "positions": [[server, position] for server, position in positions.items()],
            "seen": [[*key, seq] for key, seq in seen.items()],
            "partly": None if partly is None else [partly.record.position, partly.row],
            "version": self.version,
            "counts": vars(self.counts).copy(),
            "returns": [[*key, *told] for key, told in self._returns.items()],
            "aside": [list(key) for key in self._aside_keys],
            "inherited": self._inherited,
        }

    def put_back(self, state: dict[str, Any]) -> None:
        """Go on where another feed of the same run was captured. Raises ModelCorrupt when a log is gone."""
        self._pending.clear()
        self._seen = {(agent, incarnation): seq for agent, incarnation, seq in state["seen"]}
        self._aside, self._aside_keys = [], set()
        self._inherited = state.get("inherited", [])
        self._read_inherited()
        self._aside_keys = {(agent, incarnation) for agent, incarnation in state.get("aside", [])}
        self._read_aside(self._reader, {key: self._seen[key] for key in self._aside_keys})
        self._reader.seek(dict(state["positions"]))
        self._skip = {} if state["partly"] is None else {state["partly"][0]: state["partly"][1]}
        self.version, self.counts = state["version"], Counts(**state["counts"])
        self._returns = {(agent, start, episode): (r, n) for agent, start, episode, r, n in state["returns"]}

    def inherit(self, run_id: str, state: dict[str, Any]) -> None:
        """Begin as a run that goes on from another one, whose feed was captured: what went aside there counts here.

        Its own steps are in the replay buffer that this run begins with.
        """
        seen = {(agent, incarnation): seq for agent, incarnation, seq in state["seen"]}
        aside = [[agent, incarnation, seen[agent, incarnation]] for agent, incarnation in state.get("aside", [])]
        self._inherited = [*state.get("inherited", []), *([[run_id, aside]] if aside else [])]
        self._read_inherited()

    # -- inside

    def _await(self, wanted: int) -> None:
        # Counted once: whoever looks every few milliseconds must not count all that came before each time.
        there = sum(self._left(pending) for pending in self._pending)
        while there < wanted:
            before = len(self._pending)
            if self._read(max(wanted, _READ_AHEAD)):
                there += sum(self._left(pending) for pending in islice(self._pending, before, None))
            else:
                self._pause(_SECONDS, there, wanted)

    def _has(self, wanted: int) -> bool:
        found = 0
        for pending in self._pending:
            found += self._left(pending)
            if found >= wanted:
                return True
        return False

    def _left(self, pending: _Pending) -> int:
        """Steps of a chunk that are neither taken nor stale."""
        if self._max_staleness is None:
            return pending.count - pending.row
        fresh = sum(span.count for span in pending.spans[pending.span :] if not self._is_stale(span))
        now = pending.spans[pending.span]
        return fresh - (0 if self._is_stale(now) else pending.into)

    def _is_stale(self, span: Span) -> bool:
        return self._max_staleness is not None and self.version - span.version > self._max_staleness

    def _read(self, enough: int) -> bool:
        """Read what has come, until there are ``enough`` steps; whether there was anything."""
        before, there = len(self._pending), 0
        for record in self._reader.read():
            key = record.agent_id, record.incarnation
            message = self._codec.parse(record.chunk)
            if record.seq <= self._seen.get(key, 0):
                # What goes aside is read at once, and read again where an earlier moment is gone on from.
                self.counts.repeated += 0 if message.buffer else message.count
                continue
            self._seen[key] = record.seq
            pending = _Pending(record, self._codec, message)
            if message.buffer:
                self._put_aside(message.buffer, pending)
                self._aside_keys.add(key)
                continue
            self._advance(pending, self._skip.pop(record.position, 0))
            self._pending.append(pending)
            there += message.count
            if there >= enough:
                break
        return len(self._pending) > before

    def _put_aside(self, name: str, pending: _Pending) -> None:
        pieces: list[Piece] = []
        while pending.span < len(pending.spans):
            pieces.append(self._cut(pending, pending.count))
        self._aside.append((name, pieces))

    def _read_aside(self, reader: ExperienceReader, upto: dict[tuple[str, str], int]) -> None:
        """All that had gone aside, from the logs' beginning: no checkpoint holds it.

        Args:
            upto: the last chunk of each incarnation. Raises ModelCorrupt when they are not all there.
        """
        if not upto:
            return
        last = dict.fromkeys(upto, 0)
        reader.seek({})
        for record in reader.read():
            key = record.agent_id, record.incarnation
            if last.get(key, record.seq) < record.seq <= upto[key]:
                last[key] = record.seq
                message = self._codec.parse(record.chunk)
                self._put_aside(message.buffer, _Pending(record, self._codec, message))
        if last != upto:
            gone = ", ".join(sorted(key[0] for key in upto if last[key] != upto[key]))
            raise ModelCorrupt(f"what {gone:.160} pushed to other buffers than the run's own is gone")

    def _read_inherited(self) -> None:
        for run_id, aside in self._inherited:
            assert self._reader_of is not None
            upto = {(agent, incarnation): seq for agent, incarnation, seq in aside}
            self._read_aside(self._reader_of(run_id), upto)

    def _count(self, piece: Piece) -> None:
        total, length = self._returns.pop(piece.key, (0.0, 0))
        total += float(piece.chunk.rewards[piece.first : piece.last].sum())
        length += piece.count
        if piece.terminated or piece.truncated:
            self._ended.append({"r": round(total, 6), "l": length, "t": 0.0})
        else:
            self._returns[piece.key] = total, length

    def _next(self, wanted: int) -> tuple[Piece, bool]:
        """The next steps of the oldest chunk, at most ``wanted``, or all of a span that is stale; and whether it is."""
        pending = self._pending[0]
        span = pending.spans[pending.span]
        stale = self._is_stale(span)
        piece = self._cut(pending, span.count if stale else wanted)
        if pending.span == len(pending.spans):
            self._pending.popleft()
        return piece, stale

    def _cut(self, pending: _Pending, wanted: int) -> Piece:
        """The next steps of a chunk's present span, at most ``wanted``."""
        chunk, span = pending.chunk, pending.spans[pending.span]
        left = span.count - pending.into
        count = min(left, wanted)
        first, whole = pending.row, count == left
        final = pending.final
        start = span.start + pending.into
        self._advance(pending, count)
        return Piece(
            chunk,
            (pending.record.agent_id, pending.record.incarnation, span.episode),
            start,
            first,
            first + count,
            whole and span.terminated,
            whole and span.truncated,
            -1 if whole else first + count,
            final if whole and span.has_following and not span.terminated else -1,
        )

    @staticmethod
    def _advance(pending: _Pending, rows: int) -> None:
        """Go over some rows of a chunk."""
        spans = pending.spans
        pending.row += rows
        pending.into += rows
        while pending.span < len(spans) and pending.into >= spans[pending.span].count:
            pending.into -= spans[pending.span].count
            pending.final += spans[pending.span].has_following
            pending.span += 1
