"""Moments in messages."""

from __future__ import annotations

from datetime import datetime

from google.protobuf import timestamp_pb2

__all__ = ["timestamp"]


def timestamp(value: datetime) -> timestamp_pb2.Timestamp:
    """A moment as protobuf has it."""
    message = timestamp_pb2.Timestamp()
    message.FromDatetime(value)
    return message
