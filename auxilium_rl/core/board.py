"""TensorBoard's event files, which no run depends on. Only workers import this."""

from __future__ import annotations

from typing import Any

import structlog
from stable_baselines3.common.logger import KVWriter, TensorBoardOutputFormat

__all__ = ["Board"]

_log = structlog.get_logger(__name__)


class Board(KVWriter):
    """An output of SB3's logger that outlives a full disk: what could not be written is missing in the event files, and
    counted in the log; SQL has it.
    """

    def __init__(self, folder: str) -> None:
        self._folder, self._lost = folder, 0
        self._output: TensorBoardOutputFormat | None = None

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Write one line of the log, in a new event file when the one before broke."""
        try:
            if self._output is None:
                self._output = TensorBoardOutputFormat(self._folder)
            self._output.write(key_values, key_excluded, step)
        except OSError as error:
            if not self._lost:
                _log.warning("tensorboard_not_written", reason=str(error))
            self._lost += 1
            self._output = None

    def close(self) -> None:
        """Write what is buffered."""
        if self._lost:
            _log.warning("tensorboard_lines_lost", count=self._lost)
        try:
            if self._output is not None:
                self._output.close()
        except OSError as error:
            _log.warning("tensorboard_not_written", reason=str(error))
