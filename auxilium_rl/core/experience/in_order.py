"""What lies in several parts, as one agent sent it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from auxilium_rl.core.experience.layout import contiguous
from auxilium_rl.core.experience.ports import Record

__all__ = ["in_order"]

_Key = tuple[str, str]


class _Merged:
    """What was read, by agent and incarnation, as far as something before it may still come."""

    def __init__(self, parts: int) -> None:
        self._parts = parts
        self._last: dict[_Key, list[int]] = {}
        self._waiting: dict[_Key, dict[int, Record]] = {}

    def take(self, part: int, record: Record) -> Iterator[Record]:
        """Note one; gives those that nothing can come before any more."""
        key = record.agent_id, record.incarnation
        last = self._last.setdefault(key, [0] * self._parts)
        if record.seq <= last[part]:  # each part has its own in order, and once
            return
        last[part] = record.seq
        self._waiting.setdefault(key, {})[record.seq] = record
        yield from self._up_to(key, contiguous(last))

    def rest(self) -> Iterator[Record]:
        """When all was read."""
        for key in list(self._waiting):
            yield from self._up_to(key, max(self._waiting[key], default=0))

    def _up_to(self, key: _Key, seq: int) -> Iterator[Record]:
        waiting = self._waiting[key]
        for number in sorted(number for number in waiting if number <= seq):
            yield waiting.pop(number)


def in_order(parts: Sequence[Iterator[Record]]) -> Iterator[Record]:
    """Every record once, those of one start of an agent in the order of their numbers.

    The parts are read side by side, so that little is held.

    Args:
        parts: in ``parts[k]`` lie the numbers that are ``k`` modulo how many there are, rising for each agent.
    """
    merged = _Merged(len(parts))
    reading = dict(enumerate(parts))
    while reading:
        for part, records in list(reading.items()):
            record = next(records, None)
            if record is None:
                del reading[part]
            else:
                yield from merged.take(part, record)
    yield from merged.rest()
