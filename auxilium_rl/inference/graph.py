"""A graph in ONNX Runtime, computed for many callers together when they come together."""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt

__all__ = ["Graph", "open_session", "shared_session"]

Arrays = list[npt.NDArray[Any]]


def open_session(graph: bytes) -> Any:
    """An ``onnxruntime.InferenceSession`` that computes in its caller's thread, and takes no other's time."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


_shared: WeakValueDictionary[bytes, Any] = WeakValueDictionary()
_sharing = threading.Lock()


def shared_session(graph: bytes) -> Any:
    """As ``open_session``; those who have the same graph at the same time, as agents of one process do, have one."""
    key = hashlib.sha256(graph).digest()
    with _sharing:
        session = _shared.get(key)
        if session is None:
            session = _shared[key] = open_session(graph)
        return session


class _Job:
    """Rows that somebody waits for."""

    __slots__ = ("answer", "error", "ready", "rows")

    def __init__(self, rows: npt.NDArray[np.float32]) -> None:
        self.rows = rows
        self.answer: Arrays | None = None
        self.error: BaseException | None = None
        self.ready = threading.Event()


class Graph:
    """Observations ``(n, size)`` → outputs, each with n rows. Any number of threads may call.

    A caller who comes alone computes at once. Those who come while another one computes wait for it, which is the only
    wait there is, and are then computed together by one of them.

    Args:
        most: rows that are computed together; a caller's own rows are never parted.
    """

    def __init__(self, session: Any, outputs: Sequence[str], most: int) -> None:
        self._session, self._outputs, self._most = session, list(outputs), most
        self._mutex = threading.Lock()
        self._busy = False
        self._waiting: deque[_Job] = deque()
        self.batches = 0
        self.rows = 0

    def run(self, rows: npt.NDArray[np.float32]) -> Arrays:
        """The outputs for these rows."""
        job = _Job(rows)
        if not self.enter(job):
            job.ready.wait()
            if job.answer is not None:
                return job.answer
            if job.error is not None:
                raise job.error
            batch = self._taken(job)
        else:
            batch = [job]
        try:
            self._compute(batch)
        finally:
            self.leave()
        for other in batch[1:]:
            other.ready.set()
        if job.error is not None:
            raise job.error
        assert job.answer is not None
        return job.answer

    def enter(self, job: _Job | None = None) -> bool:
        """Whether the caller may compute now, and must ``leave``; else ``job``, if any, waits for its turn."""
        with self._mutex:
            if not self._busy:
                self._busy = True
                return True
            if job is not None:
                self._waiting.append(job)
            return False

    def leave(self) -> None:
        """Hand over to the first who waits: it computes for all who do."""
        with self._mutex:
            if not self._waiting:
                self._busy = False
                return
            following = self._waiting.popleft()
        following.ready.set()

    def _taken(self, first: _Job) -> list[_Job]:
        """The one whose turn it is, and as many of those behind it as fit."""
        batch, count = [first], len(first.rows)
        with self._mutex:
            while self._waiting and count + len(self._waiting[0].rows) <= self._most:
                batch.append(self._waiting.popleft())
                count += len(batch[-1].rows)
        return batch

    def _compute(self, batch: list[_Job]) -> None:
        rows = batch[0].rows if len(batch) == 1 else np.concatenate([job.rows for job in batch])
        self.batches += 1
        self.rows += len(rows)
        try:
            outputs = self._session.run(self._outputs, {"observation": rows})
        except BaseException as error:  # noqa: BLE001 - every caller's own
            for job in batch:
                job.error = error
            return
        start = 0
        for job in batch:
            end = start + len(job.rows)
            job.answer = outputs if len(batch) == 1 else [output[start:end] for output in outputs]
            start = end
