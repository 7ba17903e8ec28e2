"""What an evaluation while training does with what fails around it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import pytest

from auxilium_rl.core.control import Control
from auxilium_rl.core.dto import EnvironmentSource, EvaluationPlan, Run, RunSpec
from auxilium_rl.core.errors import LeaseLost, PolicyNotFound, StoreUnavailable
from auxilium_rl.core.policies import Episode, Evaluation, PolicyVersion, summary
from auxilium_rl.core.states import RunState
from auxilium_rl.core.training_evaluation import EvaluationTools, TrainingEvaluation

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
SOURCE = EnvironmentSource("gym:CartPole-v1")
SPEC = RunSpec("e", "ppo", SOURCE, 100, 0)
RUN = Run("0" * 32, SPEC, RunState.RUNNING, NOW, NOW, lease_epoch=7)
VERSION = PolicyVersion("p", 1, RUN.run_id, "ppo", 10, "c", "/p", "m", (), {}, NOW)


class Rows:
    """Takes evaluations, or answers with what stands in ``answers`` first."""

    def __init__(self, *answers: Exception | None) -> None:
        self.answers, self.kept = list(answers), []  # type: ignore[var-annotated]

    def get(self, name: str) -> Any:
        raise PolicyNotFound(name)

    def add_evaluation(self, name: str, version: int, evaluation: Evaluation, held: Any) -> Evaluation | None:
        assert held == (RUN.run_id, 7)
        if self.answers:
            answer = self.answers.pop(0)
            if answer is None:
                return None
            raise answer
        self.kept.append(evaluation)
        return replace(evaluation, id=1)


class Lanes:
    def close(self) -> None:
        pass


class Played(TrainingEvaluation):
    """Plays nothing, and counts how often."""

    times = 0

    def _summary(self, version: PolicyVersion) -> Evaluation:
        self.times += 1
        return summary("gym:CartPole-v1", True, 0, [Episode(1.0, 1)], NOW, version.timesteps)


@pytest.fixture
def evaluation() -> Callable[[Rows], Played]:
    def make(rows: Rows) -> Played:
        tools = EvaluationTools(rows, Lanes, lambda version: pytest.fail("loaded"))  # type: ignore[arg-type]
        return Played(RUN, EvaluationPlan(10, 1, SOURCE), tools, Control())

    return make


def test_a_database_that_is_away_is_asked_again_and_nothing_is_played_twice(evaluation: Any) -> None:
    made = evaluation(rows := Rows(StoreUnavailable("away")))
    with pytest.raises(StoreUnavailable):
        made.evaluate(VERSION)
    assert made.evaluate(VERSION).id == 1
    assert (made.times, len(rows.kept)) == (1, 1)


def test_a_policy_that_was_deleted_meanwhile_ends_no_run(evaluation: Any) -> None:
    made = evaluation(rows := Rows(PolicyNotFound("gone")))
    assert made.evaluate(VERSION) is None
    assert made.evaluate(replace(VERSION, version=2, timesteps=20)) is not None
    assert len(rows.kept) == 1


def test_who_lost_the_lease_keeps_nothing(evaluation: Any) -> None:
    made = evaluation(rows := Rows(None))
    with pytest.raises(LeaseLost):
        made.evaluate(VERSION)
    assert not rows.kept
