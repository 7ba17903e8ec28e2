"""Structured logs: an event name and fields, as JSON lines or for a terminal's reader."""

from __future__ import annotations

import logging
import sys

import structlog

__all__ = ["configure_logging"]


# Without the frames' variables: there are secrets among them.
_TRACEBACKS = structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False))


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
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
    )
