"""The processes that act beside the server's own."""

from __future__ import annotations

from auxilium_rl.core.errors import StoreUnavailable
from auxilium_rl.infra.kept_process import KeptProcess

__all__ = ["ActWorkers"]

_MODULE = "auxilium_rl.act_process"
_PAUSE = 0.5


class ActWorkers:
    """Starts them, and starts anew those that die.

    Args:
        settings_json: what ``Settings.to_worker`` gave; holds secrets and travels by pipe only.
        count: how many beside the server itself.
    """

    def __init__(self, settings_json: str, count: int) -> None:
        self._settings_json, self._count = settings_json, count
        self._processes: list[KeptProcess] = []

    def start(self, port: int, control: str) -> None:
        """Return when all of them answer.

        Args:
            port: that they share with the server.
            control: where the server takes what they do not answer.

        Raises:
            StoreUnavailable: one did not come up; its log says why.
        """
        job = {"settings": self._settings_json, "port": port, "control": control}
        self._processes = [KeptProcess(_MODULE, job, "act_worker_died", _PAUSE) for _ in range(self._count)]
        for process in self._processes:
            process.start()
        for process in self._processes:
            if not process.is_ready():
                raise StoreUnavailable("a process for acting (ACT_WORKERS) did not come up; the server's log has why")
        for process in self._processes:
            process.keep()

    def close(self) -> None:
        """End them: they tell their callers, and leave."""
        for process in self._processes:
            process.hang_up()
        for process in self._processes:
            process.end()
