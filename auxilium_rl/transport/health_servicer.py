"""``grpc.health.v1``: what is SERVING, kept true by really writing to the database and the store."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent import futures

import structlog
from grpc_health.v1 import health, health_pb2

from auxilium_rl.core.errors import AuxiliumError

__all__ = ["LIVENESS", "READINESS", "HealthMonitor"]

_log = structlog.get_logger(__name__)
LIVENESS, READINESS = "liveness", "readiness"
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class HealthMonitor:
    """Owns the health servicer and sets its states.

    Args:
        services: full names beside ``""``, ``liveness`` and ``readiness``; all but liveness follow the probes.
        probes: each raises an ``AuxiliumError`` while what it looks at cannot be written.
        interval: seconds between two rounds of probes.
        max_streams: Watch streams answered at once; each takes a thread of a pool of their own.
    """

    def __init__(
        self, services: Sequence[str], probes: Sequence[Callable[[], None]], interval: float, max_streams: int
    ) -> None:
        # Not the servicer's non-blocking mode: there ``set`` sends while it holds its lock, and waits for ever when a
        # watcher's end needs that lock on the thread that would complete the sending.
        self._streams = futures.ThreadPoolExecutor(max_streams, thread_name_prefix="health-watch")
        self.servicer = health.HealthServicer(experimental_non_blocking=False, experimental_thread_pool=self._streams)
        self._dependent = ("", READINESS, *services)
        self._probes = tuple(probes)
        self._interval = interval
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="health", daemon=True)
        self._ready: bool | None = None
        self._set(False)
        self.servicer.set(LIVENESS, _SERVING)

    def start(self) -> None:
        """Probe once, so that the first answer is true, then again and again."""
        self._round()
        self._thread.start()

    @property
    def ready(self) -> bool:
        """Whether the last probes went well, and the server is not on its way out."""
        return bool(self._ready) and not self._ended.is_set()

    def shut_down(self) -> None:
        """NOT_SERVING for good, liveness excepted; the probes end."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        self._set(False)

    def _loop(self) -> None:
        while not self._ended.wait(self._interval):
            self._round()

    def _round(self) -> None:
        try:
            for probe in self._probes:
                probe()
        except AuxiliumError as error:
            if self._ready is not False:
                _log.error("not_ready", reason=error.message)
            ready = False
        except Exception:  # noqa: BLE001 - a fault of ours; without this thread nobody would hear that all is well
            _log.exception("probe_failed")
            ready = False
        else:
            if self._ready is False:
                _log.info("ready_again")
            ready = True
        if not self._ended.is_set() and ready is not self._ready:  # ``set`` tells watchers even what they know
            self._ready = ready
            self._set(ready)

    def _set(self, ready: bool) -> None:
        for service in self._dependent:
            self.servicer.set(service, _SERVING if ready else _NOT_SERVING)
