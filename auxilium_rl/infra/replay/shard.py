"""A replay shard: a process that finds its job on standard input, answers on a Unix socket, and ends with that input.

It imports neither torch nor Stable-Baselines3.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from auxilium_rl.infra.logging import configure_logging
from auxilium_rl.infra.replay.shard_server import ShardServer

__all__ = ["main"]


def main() -> int:
    """Serve until standard input ends."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the server says when to end
    job: dict[str, Any] = json.loads(sys.stdin.buffer.readline())
    configure_logging(job["log_level"], "json")
    server = ShardServer(Path(job["folder"]), job["socket"], job["limit"])
    server.start()
    os.write(1, b"ready\n")
    sys.stdin.buffer.read()
    server.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
