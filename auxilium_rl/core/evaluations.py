"""Evaluations that callers ask for."""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from typing import Any

import structlog

from auxilium_rl.core.dto import EnvironmentSource
from auxilium_rl.core.errors import InvalidRequest, RunNotFound
from auxilium_rl.core.evaluation_wish import Wanted, sizes_of
from auxilium_rl.core.plans import episodes_of, evaluation_source
from auxilium_rl.core.policies import Episode, Evaluation, PolicyVersion, summary
from auxilium_rl.core.policy_manager import PolicyManager
from auxilium_rl.core.policy_ports import Evaluator
from auxilium_rl.core.ports import RunRegistry
from auxilium_rl.core.sources import SourceDefaults

__all__ = ["EvaluationRequest", "Evaluations"]

_log = structlog.get_logger(__name__)
_MAX_SEED = 2**31 - 1
_LONGEST = 100_000_000


@dataclass(frozen=True)
class EvaluationRequest:
    """What a caller wants to be played.

    Attributes:
        environment: None: where the policy's run trained.
        episodes: 0: ten.
        seed: None: drawn.
        max_steps: that an episode may take; 0: what the environment says.
    """

    policy: str
    environment: EnvironmentSource | None
    episodes: int
    deterministic: bool
    seed: int | None
    max_steps: int


class Evaluations:
    """Plays, tells and keeps.

    Args:
        defaults: of environments.
        closes_owed: called when gyms are owed their Close.
    """

    def __init__(
        self,
        policies: PolicyManager,
        runs: RunRegistry,
        evaluator: Evaluator,
        defaults: SourceDefaults,
        closes_owed: Callable[[], None] = lambda: None,
    ) -> None:
        self._policies, self._runs, self._evaluator = policies, runs, evaluator
        self._defaults, self._closes_owed = defaults, closes_owed

    def evaluate(self, request: EvaluationRequest, alive: threading.Event) -> Iterator[Episode | Evaluation]:
        """Each episode as it ends, then the evaluation that was stored. Nothing is, when the caller goes before.

        Raises:
            InvalidRequest, PolicyNotFound, RunNotFound, ModelCorrupt, StoreUnavailable, StreamsExhausted.
            EvaluationFailed: the simulator or the process failed in the middle.
        """
        version = self._policies.resolve(request.policy)
        wanted = _wanted(request)
        files = self._policies.read(version, "policy.onnx"), self._policies.read(version, "policy.json")
        source = self._source(request, version, json.loads(files[1]))
        episodes: list[Episode] = []
        try:
            for episode in self._evaluator.episodes(files, source, asdict(wanted), alive):
                episodes.append(episode)
                yield episode
        finally:
            if source.gym_ids and source.uri.startswith("grpc://"):  # its simulator waits for the Closes
                self._runs.owe_closes(source.uri.removeprefix("grpc://"), source.gym_ids)
                self._closes_owed()
        if len(episodes) < wanted.episodes:  # the caller has gone
            return
        found = summary(source.uri, wanted.deterministic, wanted.seed, episodes, datetime.now(timezone.utc))
        kept = self._policies.evaluated(version, found)
        _log.info("version_evaluated", policy=version.name, version=version.version, mean_return=kept.mean_return)
        yield kept

    def gone(self, alive: threading.Event) -> None:
        """The caller who had given ``alive`` has gone."""
        self._evaluator.look(alive)

    def _source(
        self, request: EvaluationRequest, version: PolicyVersion, description: Mapping[str, Any]
    ) -> EnvironmentSource:
        given = request.environment
        if given is not None:
            if given.gym_ids or given.uri == "fake":  # they do not say their spaces: those of the policy are meant
                observations, actions = sizes_of(description)
                given = replace(
                    given,
                    observation_dim=given.observation_dim or observations,
                    action_dim=given.action_dim or actions,
                )
            return evaluation_source(given, self._defaults)
        try:
            trained_on = self._runs.get(version.run_id).spec.environment
        except RunNotFound:
            raise InvalidRequest.of(
                "environment", f"none given, and the run '{version.run_id}' of this version is not known any more"
            ) from None
        if trained_on.uri.startswith(("gym:", "fake")):
            return replace(trained_on, lanes=1)
        if trained_on.uri == "adapter":
            raise InvalidRequest.of(
                "environment",
                "none given, and the run trained on the embedding program's own; give gym:<id> or an address",
            )
        return evaluation_source(trained_on, self._defaults)


def _wanted(request: EvaluationRequest) -> Wanted:
    episodes = episodes_of(request.episodes, "episodes")
    seed = secrets.randbelow(_MAX_SEED) if request.seed is None else request.seed
    if not 0 <= seed <= _MAX_SEED:
        raise InvalidRequest.of("seed", f"{seed} given; 0 to {_MAX_SEED} is accepted")
    if not 0 <= request.max_steps <= _LONGEST:
        raise InvalidRequest.of("max_steps", f"{request.max_steps} given; 0 to {_LONGEST} is accepted")
    return Wanted(episodes, seed, request.deterministic, request.max_steps)
