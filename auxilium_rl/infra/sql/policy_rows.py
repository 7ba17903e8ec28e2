"""Between rows of the policy tables and the values of ``core.policies``."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Connection, update

from auxilium_rl.core.policies import Criterion, Episode, Evaluation, Policy, PolicyFile, PolicyVersion
from auxilium_rl.infra.sql.tables import policy_clock
from auxilium_rl.infra.sql.times import from_micros

__all__ = ["policy_of_rows", "tick", "version_of"]


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


def policy_of_rows(row: Any, versions: list[Any], aliases: list[Any], tags: list[Any], made: list[Any]) -> Policy:
    """The policy of a row, and of those of its versions, aliases, tags and evaluations, each in order."""
    evaluations: dict[int, list[Evaluation]] = {}
    for one in made:
        evaluations.setdefault(one.version, []).append(evaluation_of(one))
    return Policy(
        row.name,
        tuple(
            version_of(
                version,
                tuple(evaluations.get(version.version, ())),
                tuple(alias.alias for alias in aliases if alias.version == version.version),
            )
            for version in versions
        ),
        {alias.alias: alias.version for alias in aliases},
        {tag.key: tag.value for tag in tags},
        row.notes,
        Criterion(row.criterion, bool(row.minimize)),
        from_micros(row.created_at),
        from_micros(row.updated_at),
    )


def tick(connection: Connection) -> None:
    """What a name means may have changed: everybody who acts looks again."""
    connection.execute(update(policy_clock).values(value=policy_clock.c.value + 1))
