"""The value objects that travel between the layers. All frozen; copies with changes by ``dataclasses.replace``."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from auxilium_rl.core.states import RunState

__all__ = [
    "Checkpoint",
    "EnvironmentSource",
    "EnvironmentSpec",
    "EvaluationPlan",
    "ExperiencePlan",
    "GymClose",
    "Limits",
    "MetricPoint",
    "Normalize",
    "Parent",
    "Run",
    "RunPage",
    "RunSpec",
    "is_run_id",
]

Json = dict[str, Any]
_RUN_ID = re.compile(r"[0-9a-f]{32}")


def is_run_id(text: str) -> bool:
    """Whether a text is an id as the server makes them for runs."""
    return _RUN_ID.fullmatch(text) is not None


@dataclass(frozen=True)
class EnvironmentSpec:
    """The shape of an environment as ``NegotiateEnvironment`` agreed on it. ``max_steps`` 0: the server's setting."""

    observation_dim: int
    action_dim: int
    sight_range: int = 0
    observation_feature_names: tuple[str, ...] = ()
    max_steps: int = 0


@dataclass(frozen=True)
class EnvironmentSource:
    """Where a run's lanes are and what shape they have, fully resolved (no zero stands for a default any more).

    Attributes:
        uri: ``fake``, ``gym:<id>``, ``grpc://host:port`` or ``unix:///path`` (with gym ids the unary protocol, without
            ``simulation.v2``), ``attached:<experiment id>``, ``dm_env_rpc://host:port``, or ``adapter`` (the factory
            of an embedding program).
        lanes: number of environments stepped together; 0 where the simulator says.
        gym_ids: the unary protocol's name for each lane; for ``adapter`` as the caller sent them; else empty.
        observation_dim: length of a flat float32 observation; 0 where the environment itself says.
        action_dim: number of discrete actions; 0 where the environment itself says.
        max_steps: steps after which an episode is truncated; 0: no limit of ours.
        min_lanes: ``attached:`` begins with as many lanes, and goes on down to as many; 0: as many as ``lanes``, or 1.
        contract: of ``agents``: the spaces and mask length that agents and learner agree on, as JSON; else empty.
    """

    uri: str
    lanes: int = 1
    gym_ids: tuple[str, ...] = ()
    observation_dim: int = 0
    action_dim: int = 0
    max_steps: int = 0
    min_lanes: int = 0
    contract: str = ""


@dataclass(frozen=True)
class Normalize:
    """Running normalisation of what the learner sees, by the names of SB3's ``VecNormalize``.

    Attributes:
        clip_obs, clip_reward: largest absolute normalised value.
        norm_obs_keys: of Dict observations; empty: every leaf of floats.
    """

    norm_obs: bool = True
    norm_reward: bool = True
    clip_obs: float = 10.0
    clip_reward: float = 10.0
    norm_obs_keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class Limits:
    """What a run may take at most; 0: as much as it wants.

    Attributes:
        memory_mb: resident memory of its worker, in MiB.
        seconds: time with a worker, over all attempts.
    """

    memory_mb: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Parent:
    """The run that another one was made of.

    Attributes:
        kind: ``retry`` and ``extend`` go on with all that the parent's newest checkpoint holds; ``clone`` begins
            anew with its weights and normalisation.
    """

    run_id: str
    kind: str


@dataclass(frozen=True)
class EvaluationPlan:
    """Episodes that are played while a run trains, beside its own.

    Attributes:
        freq: timesteps between evaluations.
        environment: where they are played; resolved as the run's own.
    """

    freq: int
    episodes: int
    environment: EnvironmentSource


@dataclass(frozen=True)
class Hindsight:
    """How steps get another goal, and what reward they then have.

    Attributes:
        n_sampled_goal: steps with another goal for each with its own.
        goal_selection_strategy: ``future``, ``final`` or ``episode``.
        reward: ``sparse``: 0 within ``distance_threshold`` of the goal, else -1; ``dense``: minus the distance.
    """

    n_sampled_goal: int = 4
    goal_selection_strategy: str = "future"
    reward: str = "sparse"
    distance_threshold: float = 0.05


@dataclass(frozen=True)
class ExperiencePlan:
    """How the experience that agents push is learned from.

    Attributes:
        synchronous: on-policy: agents wait for the next version after ``n_steps`` each; nothing is dropped.
        max_staleness: versions that a step may be behind; older ones are dropped and counted; -1: any number.
        publish_seconds: a new version at most so often; 0: after every rollout.
        buffers: shares of a batch by the names of replay buffers; empty: there is one.
        hindsight: most steps of a batch get another goal; None: none do.
        shards: off-policy: parts that the experience is spread over; 0: it lies in one log.
    """

    synchronous: bool = False
    max_staleness: int = -1
    publish_seconds: float = 0.0
    buffers: Mapping[str, float] = field(default_factory=dict)
    hindsight: Hindsight | None = None
    shards: int = 0

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> ExperiencePlan:
        """From JSON values."""
        hindsight = told.get("hindsight")
        return cls(**{**told, "hindsight": None if hindsight is None else Hindsight(**hindsight)})


@dataclass(frozen=True)
class RunSpec:
    """Everything that decides what a run does; stored once and never changed.

    Attributes:
        hyperparameters: every hyperparameter of the algorithm by its SB3 name, parsed, defaults included; JSON values
            (a linear schedule is ``"lin_3e-4"``).
        export_path: absolute file that the finished model is written to (``….zip``); empty: none.
        model_output_path: what the caller gave, with ``/`` for back-slashes; Act finds the run by it.
        policy: ``MlpPolicy``, ``CnnPolicy`` or ``MultiInputPolicy``; empty: as the observations need it.
        normalize: None: observations and rewards are learned from as they come.
        frame_stack: how many of the last observations the policy sees; 1: the present one.
        parent: None: it begins from nothing.
        policy_name: whose versions it publishes; empty: its own id.
        publish_checkpoints: every checkpoint becomes a version; else the first weights and the last.
        evaluation: None: the run is not evaluated while it trains.
        experience: of runs on ``agents``; None: the run steps its environment itself.
    """

    experiment_id: str
    algorithm: str
    environment: EnvironmentSource
    total_timesteps: int
    seed: int
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    model_output_path: str = ""
    export_path: str = ""
    checkpoint_freq: int = 10_000
    policy: str = ""
    normalize: Normalize | None = None
    frame_stack: int = 1
    limits: Limits = Limits()
    parent: Parent | None = None
    policy_name: str = ""
    publish_checkpoints: bool = False
    evaluation: EvaluationPlan | None = None
    experience: ExperiencePlan | None = None

    def to_json(self) -> Json:
        """A JSON object that ``from_json`` turns back into an equal spec."""
        return json.loads(json.dumps(asdict(self)))  # type: ignore[no-any-return]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RunSpec:
        """The spec that ``to_json`` made ``data`` of."""
        plan = data.get("evaluation")
        wish = data.get("normalize")
        normalize = None if wish is None else Normalize(**{**wish, "norm_obs_keys": tuple(wish["norm_obs_keys"])})
        parent, experience = data.get("parent"), data.get("experience")
        return cls(
            **{
                **data,
                "environment": _source(data["environment"]),
                "normalize": normalize,
                "limits": Limits(**data.get("limits", {})),
                "parent": None if parent is None else Parent(**parent),
                "experience": None if experience is None else ExperiencePlan.of(experience),
                "evaluation": None
                if plan is None
                else EvaluationPlan(**{**plan, "environment": _source(plan["environment"])}),
            }
        )

    def digest(self) -> str:
        """Sha256 over canonical JSON; equal for equal specs."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()


def _source(data: Mapping[str, Any]) -> EnvironmentSource:
    return EnvironmentSource(**{**data, "gym_ids": tuple(data["gym_ids"])})


@dataclass(frozen=True)
class Checkpoint:
    """A model that the store holds. ``path`` is the folder; ``model_path`` SB3's zip in it.

    Attributes:
        kind: ``initial`` (weights before the first update), ``periodic`` or ``final``.
        sha256: of ``model.zip``.
        manifest_sha256: of ``manifest.json``, which names and hashes every other file.
        corrupt: why it cannot be used; empty: nothing is known against it.
        score: mean return of the last episodes when it was taken; None: none had ended.
    """

    run_id: str
    timesteps: int
    path: str
    sha256: str
    manifest_sha256: str
    kind: str
    size: int
    created_at: datetime
    corrupt: str = ""
    score: float | None = None

    @property
    def model_path(self) -> str:
        """Where SB3's ``model.zip`` of this checkpoint lies."""
        return f"{self.path}/model.zip"


@dataclass(frozen=True)
class MetricPoint:
    """One value that the trainer logged. ``id`` rises within a run; 0 before it is stored. ``value`` may be NaN."""

    key: str
    step: int
    value: float
    time: datetime
    id: int = 0


@dataclass(frozen=True)
class GymClose:
    """A ``Close`` that is owed to a simulator: written with a run's start (or refusal), due when the run has ended."""

    id: int
    run_id: str
    address: str
    gym_id: str
    attempts: int


@dataclass(frozen=True)
class Run:
    """A run as the registry has it.

    Attributes:
        error_message: empty unless FAILED (the reason) or STOPPED ("stopped on request at N of M timesteps").
        state_reason: why it waits or was interrupted.
        attempt: 0 while it never had a worker.
        lease_epoch: rises with every worker; a worker's writes carry it and are refused when it has moved on.
        lease_owner: the server incarnation that runs it; empty: none.
        stop_requested: "" | "pause" | "graceful" | "immediate".
        queue_position: 1 for the next to run; 0 when not QUEUED.
        steps_per_second: over the last report of the worker; 0 unless active.
        checkpoints: those kept, oldest first.
        fruitless_attempts: workers it has had since its last checkpoint.
        simulator_session: what its last worker noted for the next one, to come back to the same session; a secret.
        active_seconds: time with workers that have gone.
    """

    run_id: str
    spec: RunSpec
    state: RunState
    created_at: datetime
    updated_at: datetime
    error_message: str = ""
    state_reason: str = ""
    timesteps_done: int = 0
    attempt: int = 0
    lease_epoch: int = 0
    lease_owner: str = ""
    stop_requested: str = ""
    idempotency_key: str = ""
    started_at: datetime | None = None
    finished_at: datetime | None = None
    exported_path: str = ""
    log_tail: str = ""
    engine: str = ""
    steps_per_second: float = 0.0
    queue_position: int = 0
    checkpoints: tuple[Checkpoint, ...] = ()
    fruitless_attempts: int = 0
    simulator_session: str = ""
    active_seconds: float = 0.0

    @property
    def newest_checkpoint(self) -> Checkpoint | None:
        """The newest whole model of the run, the initial weights included."""
        return next((checkpoint for checkpoint in reversed(self.checkpoints) if not checkpoint.corrupt), None)

    @property
    def seconds_left(self) -> float:
        """Time to the last timestep at the present rate; 0 when not known."""
        if self.steps_per_second <= 0:
            return 0.0
        return max(self.spec.total_timesteps - self.timesteps_done, 0) / self.steps_per_second


@dataclass(frozen=True)
class RunPage:
    """A page of runs, newest first, and the token of the next one (empty on the last)."""

    runs: tuple[Run, ...]
    next_page_token: str
