"""From what a caller said of evaluations to where and how they are played."""

from __future__ import annotations

from dataclasses import replace

from auxilium_rl.core.dto import EnvironmentSource, EvaluationPlan
from auxilium_rl.core.errors import InvalidRequest
from auxilium_rl.core.sources import SourceDefaults, checked_gym_ids, resolve_source

__all__ = ["DEFAULT_EPISODES", "MAX_EPISODES", "episodes_of", "evaluation_source", "resolve_plan"]

DEFAULT_EPISODES, MAX_EPISODES = 10, 100_000
_IN_PROCESS = ("gym:", "fake")


def resolve_plan(
    given: EvaluationPlan | None, training: EnvironmentSource | None, defaults: SourceDefaults
) -> EvaluationPlan | None:
    """The plan with nothing left open; None: no evaluations. Raises InvalidRequest.

    Args:
        training: where the run trains; None: that cannot be accepted, and says so itself.
    """
    if given is None or training is None:
        return None
    if given.freq < 1:
        raise InvalidRequest.of("evaluation.freq", f"{given.freq} given; a number of timesteps above 0 is accepted")
    episodes = episodes_of(given.episodes, "evaluation.episodes")
    source = given.environment
    if not source.uri and not source.gym_ids:
        if not training.uri.startswith(_IN_PROCESS):
            raise InvalidRequest.of(
                "evaluation.environment",
                f"none given, but the run trains on '{training.uri}', whose simulator serves it alone; "
                "give another simulator's address, or gym:<id>",
            )
        return EvaluationPlan(given.freq, episodes, replace(training, lanes=1))
    resolved = evaluation_source(source, defaults)
    both = sorted(set(resolved.gym_ids) & set(training.gym_ids)) if resolved.uri == training.uri else []
    if both:
        raise InvalidRequest.of(
            "evaluation.environment.gym_ids", f"{', '.join(both)} given, on which the run trains; others are accepted"
        )
    return EvaluationPlan(given.freq, episodes, resolved)


def evaluation_source(given: EnvironmentSource, defaults: SourceDefaults) -> EnvironmentSource:
    """An environment for evaluations, nothing left open. Raises InvalidRequest."""
    gym_ids = checked_gym_ids(given.gym_ids, "environment.gym_ids") if given.gym_ids else ()
    source = resolve_source(given, gym_ids, given.lanes, defaults, None)
    if source.uri.startswith("attached:") or source.uri == "agents":
        who = "agents push" if source.uri == "agents" else "simulators dial in"
        raise InvalidRequest.of(
            "environment.uri",
            f"'{source.uri}' given; {who} for training only: one that listens (grpc://host:port), gym:<id> or fake "
            "is accepted",
        )
    return source


def episodes_of(given: int, field_name: str) -> int:
    """How many episodes are played. Raises InvalidRequest."""
    if not 0 <= given <= MAX_EPISODES:
        raise InvalidRequest.of(
            field_name, f"{given} given; 1 to {MAX_EPISODES}, or 0 for {DEFAULT_EPISODES}, is accepted"
        )
    return given or DEFAULT_EPISODES
