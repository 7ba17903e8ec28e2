"""One run, from its specification to its final model. Only workers import this."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import structlog
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import Logger

from auxilium_rl.core.artifact import PolicyArtifact
from auxilium_rl.core.board import Board
from auxilium_rl.core.checkpointing import Checkpointer
from auxilium_rl.core.control import Control, EndedEarly
from auxilium_rl.core.dto import Run
from auxilium_rl.core.endurance import Endurance
from auxilium_rl.core.engine import accelerate
from auxilium_rl.core.errors import InvalidRequest, LanesLost, LeaseLost
from auxilium_rl.core.experience.lanes import AgentLanes
from auxilium_rl.core.experience.plan import ON_POLICY
from auxilium_rl.core.experience.pushed import learn_from
from auxilium_rl.core.hyperparameters import check_together
from auxilium_rl.core.lanes import LanePort
from auxilium_rl.core.learner_state import put_back_moment
from auxilium_rl.core.model_building import artifact_of, build_model, build_on_shards
from auxilium_rl.core.policies import PolicyVersion
from auxilium_rl.core.ports import MetricStore, ModelStore, RunRegistry
from auxilium_rl.core.publishing import Publisher
from auxilium_rl.core.resuming import Resumption
from auxilium_rl.core.run_callback import ProgressReporter, RunCallback
from auxilium_rl.core.states import RunState
from auxilium_rl.core.training_evaluation import TrainingEvaluation, metrics_of
from auxilium_rl.core.transplant import pending_timesteps, transplanted

__all__ = ["Learner", "Outcome"]

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Outcome:
    """How learning ended: all timesteps done (empty ``command``), or early on ``stop``, ``pause`` or ``interrupt``."""

    command: str
    timesteps_done: int


class Learner:
    """Trains one run on its lanes, keeping registry, metrics and model store up to date.

    Args:
        run: as claimed; its ``lease_epoch`` goes with every write.
        checkpoint_keep, keep_best: see ``Checkpointer``.
        resumption: where an earlier worker of this run got to, or its parent.
        tensorboard_dir: where event files go.
    """

    def __init__(
        self,
        run: Run,
        lanes: LanePort,
        *,
        registry: RunRegistry,
        metrics: MetricStore,
        store: ModelStore,
        control: Control,
        endurance: Endurance,
        publisher: Publisher,
        evaluation: TrainingEvaluation | None,
        checkpoint_keep: int,
        keep_best: int,
        tensorboard_dir: Path,
        resumption: Resumption | None = None,
    ) -> None:
        self._run, self._spec = run, run.spec
        self._lanes = lanes
        self._registry, self._metrics, self._store = registry, metrics, store
        self._control = control
        self._endure = endurance.until_it_works
        self._evaluation = evaluation
        self._tensorboard_dir = tensorboard_dir
        self._lost_timesteps, self._published_at = 0, 0.0
        self._reporter = ProgressReporter(
            run.run_id, run.lease_epoch, registry, metrics, control, lambda: self.model.num_timesteps
        )
        self._checkpoints = Checkpointer(
            run,
            registry,
            store,
            endurance,
            self._reporter.write_metrics,
            publisher=publisher,
            keep=checkpoint_keep,
            keep_best=keep_best,
        )
        self._check_lanes()
        self.model = self._build_model()
        self._resumption = self._take_over(resumption)
        self._newborn = resumption is None or resumption.checkpoint.run_id != run.run_id
        report = accelerate(self.model)
        self._engine = report.name if not report.reason else f"{report.name}: {report.reason}"
        if self.algorithm != self._spec.algorithm:
            self._engine = f"{self.algorithm}, because the simulator has an action mask; {self._engine}"
        if isinstance(lanes, AgentLanes):
            learn_from(self.model, lanes)
        self._checkpoints.follow(self.model, self._artifact(self.model))

    def _take_over(self, resumption: Resumption | None) -> Resumption | None:
        """Give the model what a checkpoint knows; gives the checkpoint when learning goes on from it."""
        parent = self._spec.parent
        if resumption is not None and resumption.checkpoint.run_id != self._run.run_id:
            assert parent is not None
            _log.info("run_begins_with_its_parent", parent=parent.run_id, timesteps=resumption.checkpoint.timesteps)
            if parent.kind == "clone":
                resumption.put_weights(self.model)
                resumption = None
        self._checkpoints.begin(self.model, resumption)
        return resumption

    def learn(self) -> Outcome:
        """Train to the end or until told otherwise; the final model is in the store when this returns.

        Raises:
            LeaseLost: the run belongs to another worker; nothing more was written.
            SimulatorError: the simulator failed.
            EndedEarly: on ``stop_now`` or ``interrupt``, while the store could not be written.
        """
        done = self.model.num_timesteps
        callback = RunCallback(
            self._control,
            self._checkpoints.save,
            self._spec.checkpoint_freq,
            self._begin,
            self._evaluate,
            self._publish,
            done,
        )
        board = Board(str(self._tensorboard_dir))
        self.model.set_logger(Logger(str(self._tensorboard_dir), [self._reporter, board]))
        self._reporter.start()
        command, at_boundary = "", True
        try:
            if self._resumption is not None:
                self._go_on(self._resumption)
            self._learn_to_the_end(callback)
            self._checkpoints.save("final")
            if self._evaluation is not None and self._checkpoints.published is not None:
                self._tell(self._evaluation, self._checkpoints.published)
        except EndedEarly as early:
            command, at_boundary = early.command, early.at_boundary
        finally:
            self._checkpoints.settle()
            board.close()
            self._reporter.close()
        if command == "stop":
            self._checkpoints.save("final")
        elif command and at_boundary:  # else it goes on from the checkpoint before, as if this rollout had not been
            self._checkpoints.save("periodic")
        self._checkpoints.finish()
        return Outcome(command, self.model.num_timesteps)

    def _publish(self) -> None:
        """Give agents the weights of now, where there are agents and it is time."""
        plan, agents = self._spec.experience, self._lanes
        if plan is None or not isinstance(agents, AgentLanes) or not self.model.num_timesteps:
            return
        now = time.monotonic()
        if self._spec.algorithm in ON_POLICY or now - self._published_at >= plan.publish_seconds:
            agents.feed.version = self._checkpoints.publish_now().version
            self._published_at = now

    def _evaluate(self) -> bool:
        """Evaluate if that is due; whether a checkpoint was taken for it."""
        if self._evaluation is None or not self._evaluation.due(self.model.num_timesteps):
            return False
        if self._resumption is not None:  # it stands where it was, maybe before this worker's first step
            self._announce()
        self._tell(self._evaluation, self._checkpoints.save_version())
        return True

    def _tell(self, evaluation: TrainingEvaluation, version: PolicyVersion) -> None:
        found = self._endure(lambda: evaluation.evaluate(version))
        if found is not None:
            values = metrics_of(found)
            for output in self.model.logger.output_formats:
                output.write(dict(values), dict.fromkeys(values, ()), version.timesteps)

    def _go_on(self, resumption: Resumption) -> None:
        """Bring environments and random streams to where they were, or begin new episodes that nobody has seen."""
        exact = put_back_moment(self.model, resumption.state)
        if not exact:
            env = self.model.get_env()
            assert env is not None
            drawn = np.random.SeedSequence([self._spec.seed, self._run.attempt]).generate_state(1)
            env.seed(int(drawn[0] >> 1))
        _log.info("run_goes_on", timesteps=self.model.num_timesteps, attempt=self._run.attempt, new_episodes=not exact)
        if self.model.num_timesteps >= self._spec.total_timesteps:  # its last worker did everything but say so
            self._announce()

    def _learn_to_the_end(self, callback: RunCallback) -> None:
        """With fewer lanes, when some are gone for good and ``min_lanes`` are left."""
        while True:
            done = self.model.num_timesteps
            try:
                self.model.learn(self._spec.total_timesteps - done, callback=callback, reset_num_timesteps=not done)
                return
            except LanesLost as lost:
                logger, discarded = self.model.logger, pending_timesteps(self.model)
                self._lost_timesteps += discarded
                _log.warning("going_on_with_fewer_lanes", reason=lost.message, discarded_timesteps=discarded)
                self.model, self._engine = self._transplanted()
                self.model.set_logger(logger)
                logger.record("lanes/now", self._lanes.lanes)
                logger.record("lanes/discarded_timesteps", self._lost_timesteps)
                logger.dump(self.model.num_timesteps)  # the run may end before anything else is logged

    def _transplanted(self) -> tuple[BaseAlgorithm, str]:
        """A model on the lanes that are left, with all that the one before had learned."""
        check_together(self.algorithm, self._spec.hyperparameters, self._lanes.lanes)
        self._checkpoints.finish()
        new = transplanted(self.model, self._build_model)
        report = accelerate(new)
        self._checkpoints.begin(new, None)
        self._checkpoints.follow(new, self._artifact(new))
        return new, report.name if not report.reason else f"{report.name}: {report.reason}"

    def export(self) -> str:
        """Write the final model where the caller asked for it; gives that path, empty when none was asked for."""
        if self._spec.export_path:
            self._endure(lambda: self._store.export(self._checkpoints.newest, self._spec.export_path))
        return self._spec.export_path

    def _check_lanes(self) -> None:
        """What could not be checked before the simulator said how many lanes it has. Raises InvalidRequest."""
        source = self._spec.environment
        if isinstance(self._lanes, AgentLanes):  # as many agents as join
            return
        asked, least = source.lanes, source.min_lanes or source.lanes
        if asked and not least <= self._lanes.lanes <= asked:
            raise InvalidRequest.of(
                "environment.lanes", f"{asked} given, but the simulator has {self._lanes.lanes}; 0 takes what it has"
            )
        check_together(self._spec.algorithm, self._spec.hyperparameters, self._lanes.lanes)

    def _build_model(self) -> BaseAlgorithm:
        lanes = self._lanes
        sharded = isinstance(lanes, AgentLanes) and lanes.shards is not None
        build = build_on_shards if sharded else build_model
        model, self.algorithm = build(self._spec, lanes)
        return model

    def _artifact(self, model: BaseAlgorithm) -> PolicyArtifact:
        return artifact_of(model, self.algorithm, self._spec, self._lanes)

    def _begin(self) -> None:
        """After the first step: the initial weights are saved, then the run says that it runs."""
        if self._newborn:
            self._checkpoints.save("initial")
            if isinstance(self._lanes, AgentLanes) and self._checkpoints.published is not None:
                self._lanes.feed.version = self._checkpoints.published.version
        self._announce()

    def _announce(self) -> None:
        run_id, epoch, done = self._run.run_id, self._run.lease_epoch, self.model.num_timesteps
        self._endure(
            lambda: self._registry.report(run_id, epoch, timesteps_done=done, steps_per_second=0, engine=self._engine)
        )
        begun = self._endure(lambda: self._registry.transition(run_id, RunState.RUNNING, epoch=epoch))
        if not begun and self._endure(lambda: self._registry.get(run_id)).lease_epoch != epoch:
            raise LeaseLost("the run was taken from this worker before its first step")
