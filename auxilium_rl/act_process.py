"""A process that acts beside the server's own, on the same port: the kernel gives it a share of the connections.

It answers what acts, and hands everything else on to the server. Its job comes as the first line of standard input; it
ends when that ends. Like ``app`` it knows everything; it imports neither torch nor Stable-Baselines3.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from typing import Any

from auxilium_rl.wire.polling import poll_in_the_calling_thread

poll_in_the_calling_thread()

import grpc  # noqa: E402
import structlog  # noqa: E402

from auxilium_rl.core.acting import ActingService  # noqa: E402
from auxilium_rl.core.errors import Draining  # noqa: E402
from auxilium_rl.core.model_cache import ModelCache  # noqa: E402
from auxilium_rl.core.policy_clock import PolicyClock  # noqa: E402
from auxilium_rl.infra.config import Settings  # noqa: E402
from auxilium_rl.infra.logging import configure_logging  # noqa: E402
from auxilium_rl.infra.model_store import ModelStore  # noqa: E402
from auxilium_rl.infra.policy_loading import PolicyLoader  # noqa: E402
from auxilium_rl.infra.policy_store import PolicyStore  # noqa: E402
from auxilium_rl.infra.sql.database import open_database  # noqa: E402
from auxilium_rl.infra.sql.policies import SqlPolicyRegistry  # noqa: E402
from auxilium_rl.infra.sql.registry import SqlRunRegistry  # noqa: E402
from auxilium_rl.transport.act_server import ActServer  # noqa: E402

__all__ = ["main"]

_log = structlog.get_logger(__name__)
_FAREWELL = 0.1
"""Seconds for which callers are told that the server goes away; see ``app``."""


class _Here:
    """A ``Presence``."""

    def __init__(self) -> None:
        self.gone = False

    def check_here(self) -> None:
        """See ``Presence``."""
        if self.gone:
            raise Draining("the server is going away; try again when it is back")


def main() -> int:
    """Serve until standard input ends."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the server says when to end
    job: dict[str, Any] = json.loads(sys.stdin.buffer.readline())
    settings = Settings.from_worker(job["settings"])
    configure_logging(settings.log_level, "json")
    engine = open_database(settings.sql_url)
    clock = PolicyClock(SqlPolicyRegistry(engine))
    models = ModelStore(settings.models_folder, settings.checkpoint_place, export_root=settings.export_root)
    loader = PolicyLoader(models, PolicyStore(settings.policies_place), settings.act_max_batch)
    cache = ModelCache(settings.act_cache_mb << 20)
    acting = ActingService(
        SqlRunRegistry(engine), SqlPolicyRegistry(engine), clock, cache, loader.of_checkpoint, loader.of_version
    )
    here = _Here()
    server = ActServer(
        here,
        acting,
        grpc.insecure_channel(job["control"], options=[("grpc.max_receive_message_length", -1)]),
        address=f"{settings.grpc_host}:{job['port']}",
        max_workers=settings.grpc_max_workers,
        max_streams=settings.act_max_streams,
        max_message=settings.grpc_max_message_mb << 20,
    )
    clock.start()
    server.start()
    os.write(1, b"ready\n")
    sys.stdin.buffer.read()
    here.gone = True
    threading.Event().wait(_FAREWELL)
    server.stop(1.0)
    clock.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
