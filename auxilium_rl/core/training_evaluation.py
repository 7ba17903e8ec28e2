"""Evaluations while a run trains, on environments of their own. Only workers import this."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone

import structlog

from auxilium_rl.core.control import Control, EndedEarly
from auxilium_rl.core.dto import EvaluationPlan, Run
from auxilium_rl.core.errors import (
    AuxiliumError,
    InvalidRequest,
    LeaseLost,
    LimitExceeded,
    PolicyNotFound,
    StoreUnavailable,
)
from auxilium_rl.core.evaluating import check_fit, play
from auxilium_rl.core.evaluation_wish import Wanted
from auxilium_rl.core.lanes import LanePort
from auxilium_rl.core.policies import Episode, Evaluation, PolicyVersion, summary
from auxilium_rl.core.policy_ports import ActionModel, PolicyRegistry
from auxilium_rl.core.publishing import policy_of

__all__ = ["EvaluationTools", "TrainingEvaluation", "metrics_of"]

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class EvaluationTools:
    """What evaluations stand on.

    Attributes:
        open_lanes: opens the environments; raises as ``infra.environments.open_lanes`` does.
        load: makes a policy of a version's files.
    """

    policies: PolicyRegistry
    open_lanes: Callable[[], LanePort]
    load: Callable[[PolicyVersion], ActionModel]


class TrainingEvaluation:
    """Plays what the plan of a run says; draws nothing from the learner's random streams.

    The environments are opened at once, so that a plan that cannot be carried out ends the run before it trains.
    """

    def __init__(self, run: Run, plan: EvaluationPlan, tools: EvaluationTools, control: Control) -> None:
        self._run, self._plan, self._tools, self._control = run, plan, tools, control
        self._lanes: LanePort | None = tools.open_lanes()
        self._fits = False
        self._played: tuple[int, Evaluation] | None = None
        self._next = (self._done_before() // plan.freq + 1) * plan.freq

    def due(self, timesteps: int) -> bool:
        """Whether it is time for one."""
        return timesteps >= self._next

    def evaluate(self, version: PolicyVersion) -> Evaluation | None:
        """Play with a version, and keep what it came to; None: the environments failed, which the log tells.

        Raises:
            InvalidRequest: the environments are not of the policy's spaces.
            StoreUnavailable: to be called again; what was played is not played again.
            LeaseLost, LimitExceeded, EndedEarly: the run must end.
        """
        self._next = (version.timesteps // self._plan.freq + 1) * self._plan.freq
        try:
            if self._played is None or self._played[0] != version.version:
                self._played = version.version, self._summary(version)
            kept = self._tools.policies.add_evaluation(
                version.name, version.version, self._played[1], (self._run.run_id, self._run.lease_epoch)
            )
        except (InvalidRequest, LeaseLost, LimitExceeded, StoreUnavailable):
            raise
        except AuxiliumError as error:  # training goes on; the next one tries to connect again
            _log.warning("evaluation_failed", timesteps=version.timesteps, reason=error.message)
            self.close()
            return None
        if kept is None:
            raise LeaseLost("another worker holds this run")
        _log.info("evaluated", timesteps=version.timesteps, version=version.version, mean_return=kept.mean_return)
        return kept

    def close(self) -> None:
        """Give the environments back."""
        lanes, self._lanes = self._lanes, None
        if lanes is not None:
            lanes.close()

    def _summary(self, version: PolicyVersion) -> Evaluation:
        seed = self._run.spec.seed
        episodes: list[Episode] = []
        self._play(version, Wanted(self._plan.episodes, seed), episodes)
        where = self._plan.environment.uri
        return summary(where, True, seed, episodes, datetime.now(timezone.utc), version.timesteps)

    def _play(self, version: PolicyVersion, wanted: Wanted, episodes: list[Episode]) -> None:
        if self._lanes is None:
            self._lanes = self._tools.open_lanes()
        model = self._tools.load(version)
        if not self._fits:
            check_fit(self._lanes, model.description, self._plan.environment)
            self._fits = True
        play(self._lanes, model, wanted, episodes.append, self._stepped)

    def _stepped(self) -> None:
        self._control.moved()
        if self._control.urgent:
            self._control.obey_now()
        if self._control.command:  # the learner stands at a boundary: there is nothing to wait for
            raise EndedEarly(self._control.command, at_boundary=True)

    def _done_before(self) -> int:
        """Timesteps of the newest version of this run that was evaluated, by whatever worker."""
        try:
            versions = self._tools.policies.get(policy_of(self._run)).versions
        except PolicyNotFound:
            return 0
        mine = [version for version in versions if version.run_id == self._run.run_id]
        return max((one.timesteps for version in mine for one in version.evaluations), default=0)


def metrics_of(evaluation: Evaluation) -> dict[str, float]:
    """What is logged of an evaluation, by the names of SB3's ``EvalCallback``, and its KPIs."""
    found = {"eval/mean_reward": evaluation.mean_return, "eval/mean_ep_length": evaluation.mean_length}
    if evaluation.success_rate is not None:
        found["eval/success_rate"] = evaluation.success_rate
    return found | {f"eval/{key}": value for key, value in evaluation.kpis.items()}
