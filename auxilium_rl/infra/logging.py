"""Structured logs: an event name and fields, as JSON lines or for a terminal's reader."""

from __future__ import annotations

import logging
import sys
from typing import TextIO, cast

import structlog

__all__ = ["configure_logging"]


# Without the frames' variables: there are secrets among them.
_TRACEBACKS = structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False))


class _Steadfast:
    """A text stream whose disk may be full: who logs must not die of it. Says how many lines were lost when it can."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._lost = stream, 0

    def write(self, text: str) -> int:
        """Write, or count what cannot be written."""
        try:
            if self._lost:
                self._stream.write(f'{{"event": "log_lines_lost", "count": {self._lost}}}\n')
            self._stream.write(text)
            self._stream.flush()
            self._lost = 0
        except OSError:
            self._lost += 1
        return len(text)

    def flush(self) -> None:
        """Every line is flushed already."""


def configure_logging(level: str = "INFO", output: str = "auto") -> None:
    """Send structlog's events to standard error.

    Args:
        level: DEBUG, INFO, WARNING, ERROR or CRITICAL.
        output: ``json``, ``console``, or ``auto``: console on a terminal, else JSON.
    """
    console = output == "console" or (output == "auto" and sys.stderr.isatty())
    rendering: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer()] if console else [_TRACEBACKS, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *rendering,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level)),
        logger_factory=structlog.WriteLoggerFactory(file=cast(TextIO, _Steadfast(sys.stderr))),
    )
