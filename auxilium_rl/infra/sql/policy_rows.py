"""Between rows of the policy tables and the values of ``core.policies``."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Connection, update

from auxilium_rl.core.policies import Episode, Evaluation, PolicyFile, PolicyVersion
from auxilium_rl.infra.sql.tables import policy_clock
from auxilium_rl.infra.sql.times import from_micros

__all__ = ["evaluation_of", "tick", "version_of"]


def version_of(row: Any, evaluations: tuple[Evaluation, ...] = (), aliases: tuple[str, ...] = ()) -> PolicyVersion:
    """The version of a row."""
    return PolicyVersion(
        name=row.name,
        version=row.version,
        run_id=row.run_id,
        algorithm=row.algorithm,
        timesteps=row.timesteps,
        contract_hash=row.contract_hash,
        path=row.path,
        manifest_sha256=row.manifest_sha256,
        files=tuple(PolicyFile(**file) for file in json.loads(row.files)),
        metrics=json.loads(row.metrics),
        created_at=from_micros(row.created_at),
        evaluations=evaluations,
        aliases=aliases,
    )


def evaluation_of(row: Any) -> Evaluation:
    """The evaluation of a row."""
    body = json.loads(row.body)
    episodes = tuple(Episode(**episode) for episode in body.pop("episodes"))
    return Evaluation(
        **body, episodes=episodes, environment=row.environment, created_at=from_micros(row.created_at), id=row.id
    )


def tick(connection: Connection) -> None:
    """What a name means may have changed: everybody who acts looks again."""
    connection.execute(update(policy_clock).values(value=policy_clock.c.value + 1))
