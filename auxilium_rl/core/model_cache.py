"""Loaded models: each loaded once however many ask, the ones used last kept as long as they fit."""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future

from auxilium_rl.core.policy_ports import ActionModel

__all__ = ["ModelCache"]


class ModelCache:
    """By key, least recently used first out.

    Args:
        capacity: bytes of graphs that are kept; the one that was asked for last stays whatever its size.

    Attributes:
        let_go: called with each model that is not kept any more.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._models: OrderedDict[str, Future[ActionModel]] = OrderedDict()
        self._lock = threading.Lock()
        self.let_go: Callable[[ActionModel], None] = lambda _: None

    def get(self, key: str, load: Callable[[], ActionModel]) -> ActionModel:
        """The model of a key. Raises what ``load`` raises; it is tried again by whoever asks next."""
        with self._lock:
            future = self._models.get(key)
            if future is not None:
                self._models.move_to_end(key)
            else:
                mine = self._models[key] = Future()
        if future is not None:
            return future.result()
        try:
            mine.set_result(load())
        except BaseException as error:
            with self._lock:
                self._models.pop(key, None)
            mine.set_exception(error)
            raise
        self._shrink()
        return mine.result()

    def touch(self, key: str) -> None:
        """Somebody uses the model of this key."""
        with contextlib.suppress(KeyError):  # it was let go in this moment
            self._models.move_to_end(key)

    def has(self, key: str) -> bool:
        """Whether a model is loaded."""
        future = self._models.get(key)
        return future is not None and future.done() and future.exception() is None

    def drop(self, key: str) -> None:
        """Let go of a model."""
        with self._lock:
            future = self._models.pop(key, None)
        if future is not None and future.done() and future.exception() is None:
            self.let_go(future.result())

    def loaded(self) -> dict[str, int]:
        """Key and bytes of every model that is loaded."""
        with self._lock:
            return {
                key: future.result().size
                for key, future in self._models.items()
                if future.done() and future.exception() is None
            }

    def _shrink(self) -> None:
        sizes = self.loaded()
        total = sum(sizes.values())
        with self._lock:
            oldest = list(self._models)[:-1]
        for key in oldest:
            if total <= self._capacity:
                return
            if key in sizes:  # one that is being loaded is somebody's
                total -= sizes[key]
                self.drop(key)
