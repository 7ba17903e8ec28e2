"""What happens beside learning: checkpoints, ending at boundaries, metrics. Only workers import this."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import numpy as np
import structlog
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter

from auxilium_rl.core.control import Control, EndedEarly
from auxilium_rl.core.dto import MetricPoint
from auxilium_rl.core.errors import StoreUnavailable
from auxilium_rl.core.ports import MetricStore, RunRegistry

__all__ = ["ProgressReporter", "RunCallback"]

_log = structlog.get_logger(__name__)


class RunCallback(BaseCallback):
    """Ends ``learn()`` on request and takes checkpoints at learning boundaries.

    A boundary is where a rollout begins: on-policy after an update, off-policy after a train step.

    Args:
        evaluate: evaluates if that is due; whether it took a checkpoint.
        publish: makes a version of now, if that is due.
        done: timesteps that an earlier worker did.
    """

    def __init__(
        self,
        control: Control,
        save: Callable[[str], None],
        checkpoint_freq: int,
        on_first_step: Callable[[], None],
        evaluate: Callable[[], bool],
        publish: Callable[[], None],
        done: int = 0,
    ) -> None:
        super().__init__()
        self._evaluate, self._publish = evaluate, publish
        self._control = control
        self._save = save
        self._freq = checkpoint_freq
        self._on_first_step: Callable[[], None] | None = on_first_step
        self._next_checkpoint = (done // checkpoint_freq + 1) * checkpoint_freq

    def _on_rollout_start(self) -> None:
        command = self._control.command
        if command:
            raise EndedEarly(command, at_boundary=True)
        done, due = self.model.num_timesteps, self._next_checkpoint
        if done >= due:
            self._next_checkpoint = (done // self._freq + 1) * self._freq
        if not self._evaluate() and done >= due:
            self._save("periodic")
        self._publish()

    def _on_step(self) -> bool:
        self._control.moved()
        if self._on_first_step is not None:
            first, self._on_first_step = self._on_first_step, None
            first()
        if self._control.urgent:
            self._control.obey_now()
        return True


class ProgressReporter(KVWriter):
    """Carries progress and metrics to the registry from a thread of its own, so that learning never waits for a disk.

    As a ``KVWriter`` it is one of SB3's log outputs.
    """

    def __init__(
        self,
        run_id: str,
        epoch: int,
        registry: RunRegistry,
        metrics: MetricStore,
        control: Control,
        timesteps: Callable[[], int],
        interval: float = 0.5,
    ) -> None:
        self._run_id, self._epoch = run_id, epoch
        self._registry, self._metrics, self._control = registry, metrics, control
        self._timesteps, self._interval = timesteps, interval
        self._points: list[MetricPoint] = []
        self._lock, self._wake, self._ended = threading.Lock(), threading.Event(), False
        self._writing = threading.Lock()  # whoever waits for it knows that everything before is written
        self._last = (-1, 0.0)
        self._thread = threading.Thread(target=self._loop, name="progress", daemon=True)

    def start(self) -> None:
        """Begin to report."""
        self._thread.start()

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Queue what SB3 logged; text, pictures and the like are TensorBoard's alone."""
        now = datetime.now(timezone.utc)
        points = [
            MetricPoint(key, step, float(value), now)
            for key, value in sorted(key_values.items())
            if isinstance(value, (bool, int, float, np.floating, np.integer))
        ]
        with self._lock:
            self._points.extend(points)

    def write_metrics(self) -> None:
        """Write the metrics that are queued. Raises StoreUnavailable; they stay queued then."""
        with self._writing:
            with self._lock:
                points, self._points = self._points, []
            try:
                if points and not self._metrics.append(self._run_id, self._epoch, points):
                    self._control.lose_lease()
            except Exception:
                with self._lock:
                    self._points = points + self._points
                raise

    def close(self) -> None:
        """End the thread, and write what is queued if that works; else ``write_metrics`` still can."""
        self._ended = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()
        self._try_to_flush(math.inf)

    def _loop(self) -> None:
        while not self._ended:
            self._wake.wait(self._interval)
            self._try_to_flush(self._interval)

    def _try_to_flush(self, elapsed: float) -> None:
        try:
            self._flush(elapsed)
        except StoreUnavailable as error:  # what is queued stays so; the next turn, or the next checkpoint, writes it
            _log.warning("progress_not_written", reason=error.message)

    def _flush(self, elapsed: float) -> None:
        self.write_metrics()
        done = self._timesteps()
        before, rate = self._last
        if done == before and rate == 0.0:
            return
        if math.isfinite(elapsed) and before >= 0:
            now = (done - before) / elapsed
            rate = now if rate == 0.0 else 0.7 * rate + 0.3 * now
        self._last = (done, rate)
        if not self._registry.report(self._run_id, self._epoch, timesteps_done=done, steps_per_second=round(rate, 1)):
            self._control.lose_lease()
