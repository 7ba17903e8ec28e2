"""A process that plays the episodes of one evaluation. Finds its job on standard input: one line of JSON, then the
policy's files; tells each episode as a line of JSON on standard output. Ends when standard input ends.

It imports neither torch nor Stable-Baselines3.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from typing import IO, Any

from auxilium_rl.wire.polling import poll_in_the_calling_thread

poll_in_the_calling_thread()

from auxilium_rl.core.dto import EnvironmentSource  # noqa: E402
from auxilium_rl.core.errors import AuxiliumError, InvalidRequest  # noqa: E402
from auxilium_rl.core.evaluating import check_fit, play  # noqa: E402
from auxilium_rl.core.evaluation_wish import Wanted  # noqa: E402
from auxilium_rl.core.policies import Episode  # noqa: E402
from auxilium_rl.inference.policy import OnnxPolicy  # noqa: E402
from auxilium_rl.infra.config import Settings  # noqa: E402
from auxilium_rl.infra.environments import open_lanes  # noqa: E402
from auxilium_rl.infra.impatience import Impatience  # noqa: E402

__all__ = ["main"]


def main() -> int:
    """Do the job; gives the exit code."""
    source, told = sys.stdin.buffer, os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a simulator prints is no answer of ours
    job = json.loads(source.readline())
    graph, description = source.read(job["graph_bytes"]), json.loads(source.read(job["description_bytes"]))
    threading.Thread(target=_end_with_server, args=(source,), daemon=True).start()

    def tell(what: str, value: Any) -> None:
        told.write(json.dumps({what: value}) + "\n")
        told.flush()

    try:
        _play(job, OnnxPolicy(graph, description), lambda episode: tell("episode", asdict(episode)))
    except InvalidRequest as error:
        tell("invalid", [[violation.field, violation.description] for violation in error.violations])
    except AuxiliumError as error:
        tell("failed", error.message)
    else:
        tell("done", True)
    return 0


def _play(job: dict[str, Any], policy: OnnxPolicy, tell: Callable[[Episode], None]) -> None:
    settings = Settings.from_worker(job["settings"])
    given = job["environment"]
    source = EnvironmentSource(**{**given, "gym_ids": tuple(given["gym_ids"])})
    wanted = Wanted(**job["wanted"])
    lanes = open_lanes(source, settings, Impatience(), experiment_id=job["experiment_id"])
    try:
        check_fit(lanes, policy.description, source)
        play(lanes, policy, wanted, tell)
    finally:
        lanes.close()


def _end_with_server(source: IO[bytes]) -> None:
    source.read(1)
    os._exit(3)


if __name__ == "__main__":
    sys.exit(main())
