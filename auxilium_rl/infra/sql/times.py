"""Times as SQL keeps them: microseconds since 1970 in UTC."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

__all__ = ["from_micros", "to_micros"]

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def to_micros(moment: datetime) -> int:
    """Microseconds since 1970 of an aware time."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def from_micros(value: int) -> datetime:
    """The aware UTC time of ``to_micros``."""
    return _EPOCH + timedelta(microseconds=value)
