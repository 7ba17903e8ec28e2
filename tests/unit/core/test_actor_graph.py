"""The served graph against SB3's own ``predict``: every algorithm, kind of space and wrapper, and recurrent state."""

from __future__ import annotations

import json
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecNormalize, VecTransposeImage

from auxilium_rl.core.artifact import PolicyArtifact
from auxilium_rl.core.dto import EnvironmentSource, Normalize, RunSpec
from auxilium_rl.core.model_building import artifact_of, build_model
from auxilium_rl.inference.loading import checked_policy
from auxilium_rl.inference.policy import OnnxPolicy
from auxilium_rl.infra.gymnasium_lanes import CheckedGymLanes
from auxilium_rl.wire.rows import Obs
from auxilium_rl.wire.spaces import mask_length

VECTOR = spaces.Box(-5, 5, (3,), np.float32)
PICTURE = spaces.Box(0, 255, (40, 36, 2), np.uint8)
DICT = spaces.Dict([("b", VECTOR), ("a", spaces.Box(0, 255, (36, 36, 1), np.uint8)), ("c", spaces.Discrete(4))])
TWO_BOXES = spaces.Dict([("z", VECTOR), ("a", spaces.Box(0, 255, (36, 36, 1), np.uint8))])
CONTINUOUS = spaces.Box(np.array([-1, 0], np.float32), np.array([3, 0.5], np.float32))
TINY: dict[str, Any] = {"policy_kwargs": {"net_arch": [16]}}
ON = {"n_steps": 16, "batch_size": 16, "n_epochs": 1, **TINY}
OFF = {"learning_starts": 16, "batch_size": 8, "buffer_size": 200, **TINY}
Q = {**OFF, "train_freq": 4}


class Toy(gymnasium.Env[Any, Any]):
    """Random observations of any space; the reward asks for nothing but numbers."""

    def __init__(self, observation: Any, action: Any, masked: bool) -> None:
        self.observation_space, self.action_space = observation, action
        if masked:
            self.action_masks = lambda: np.ones(mask_length(action), bool)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.observation_space.seed(0 if seed is None else seed)
        self.count = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action)
        self.count += 1
        return self.observation_space.sample(), float(np.sum(action)), self.count % 7 == 0, False, {}


def trained(
    algorithm: str,
    observation: Any,
    action: Any,
    hyperparameters: dict[str, Any],
    *,
    masked: bool = False,
    **wishes: Any,
) -> tuple[Any, PolicyArtifact]:
    lanes = CheckedGymLanes(lambda: Toy(observation, action, masked), 2)
    spec = RunSpec("x", algorithm, EnvironmentSource("gym:x", 2), 64, 0, hyperparameters, **wishes)
    model, name = build_model(spec, lanes)
    model.learn(64)
    return model, artifact_of(model, name, spec, lanes)


def flat(rows: Obs, count: int) -> npt.NDArray[np.float32]:
    leaves = [rows[key] for key in ("z", "b", "a", "c") if key in rows] if isinstance(rows, dict) else [rows]
    return np.concatenate([np.asarray(leaf, np.float32).reshape(count, -1) for leaf in leaves], axis=1)


def sampled(space: Any, count: int) -> Obs:
    space.seed(5)
    drawn = [space.sample() for _ in range(count)]
    if isinstance(space, spaces.Dict):
        return {key: np.stack([one[key] for one in drawn]) for key in space.spaces}
    return np.stack(drawn)


def served(artifact: PolicyArtifact) -> OnnxPolicy:
    """The policy as it is loaded for acting, its own parity samples checked."""
    artifact.graph()  # once traced, weights are replaced: what is tested is the second
    files = artifact.files()
    return checked_policy(files.__getitem__, files, "here", 4096)


def count_of(observation: Any, long: bool) -> int:
    """Ten thousand observations, pictures in ``make faults`` only."""
    leaves = observation.spaces.values() if isinstance(observation, spaces.Dict) else [observation]
    return 10_000 if long or max(np.prod(leaf.shape or (1,)) for leaf in leaves) < 100 else 1000


def agree(policy: OnnxPolicy, rows: npt.NDArray[np.float32], expected: Any) -> None:
    """Whole numbers are equal unless the two best are within 1e-6 of each other; others within 1e-5."""
    answered, scores = policy.first_actions(rows)
    if policy.is_continuous:
        np.testing.assert_allclose(answered, expected, atol=1e-5)
        return
    assert answered.dtype == np.int64
    best = np.sort(scores, axis=1)
    tied = (np.diff(best, axis=1) < 1e-6).any(axis=1) | (np.abs(scores) < 1e-6).any(axis=1)
    differing = (answered != expected).reshape(len(rows), -1).any(axis=1)
    assert not (differing & ~tied).any()
    assert tied.mean() < 0.01


CASES: list[tuple[str, Any, Any, dict[str, Any], dict[str, Any]]] = [
    ("ppo", VECTOR, spaces.Discrete(3), ON, {}),
    ("ppo", VECTOR, spaces.Discrete(3, start=-2), ON, {}),
    ("ppo", VECTOR, CONTINUOUS, ON, {}),
    ("ppo", VECTOR, CONTINUOUS, {**ON, "use_sde": True}, {}),
    ("ppo", VECTOR, spaces.MultiDiscrete([2, 3]), ON, {}),
    ("ppo", VECTOR, spaces.MultiBinary(3), ON, {}),
    ("ppo", PICTURE, spaces.Discrete(2), ON, {}),
    ("ppo", DICT, spaces.Discrete(2), ON, {}),
    ("ppo", spaces.Discrete(5, start=2), spaces.Discrete(2), ON, {}),
    ("ppo", spaces.MultiDiscrete([3, 4]), spaces.Discrete(2), ON, {}),
    ("ppo", spaces.MultiBinary(4), spaces.Discrete(2), ON, {}),
    ("ppo", spaces.Box(-1, 1, (2, 3), np.float64), spaces.Discrete(2), ON, {}),
    ("ppo", VECTOR, spaces.Discrete(3), ON, {"normalize": Normalize()}),
    ("ppo", DICT, spaces.Discrete(3), ON, {"normalize": Normalize()}),
    ("ppo", VECTOR, spaces.Discrete(3), ON, {"frame_stack": 3}),
    ("ppo", PICTURE, spaces.Discrete(3), ON, {"frame_stack": 2, "normalize": Normalize(norm_obs=False)}),
    ("ppo", VECTOR, CONTINUOUS, ON, {"frame_stack": 2, "normalize": Normalize()}),
    ("ppo", PICTURE, spaces.Discrete(2), ON, {"policy": "MlpPolicy"}),
    ("a2c", DICT, CONTINUOUS, {"n_steps": 8, **TINY}, {}),
    ("trpo", VECTOR, spaces.Discrete(3), {"n_steps": 16, "batch_size": 16, **TINY}, {}),
    ("dqn", PICTURE, spaces.Discrete(3), Q, {}),
    ("qrdqn", VECTOR, spaces.Discrete(3), {**Q, "policy_kwargs": {"n_quantiles": 7}}, {}),
    ("qrdqn", DICT, spaces.Discrete(3), Q, {}),
    ("qrdqn", TWO_BOXES, spaces.Discrete(3), Q, {"frame_stack": 2, "normalize": Normalize()}),
    ("sac", VECTOR, CONTINUOUS, OFF, {}),
    ("sac", PICTURE, CONTINUOUS, OFF, {}),
    ("sac", VECTOR, CONTINUOUS, {**OFF, "use_sde": True}, {"normalize": Normalize()}),
    ("tqc", DICT, CONTINUOUS, OFF, {}),
    ("td3", VECTOR, CONTINUOUS, {**OFF, "action_noise": {"type": "normal", "sigma": 0.1}}, {"frame_stack": 2}),
    ("ddpg", VECTOR, CONTINUOUS, OFF, {}),
]


@pytest.mark.parametrize(("algorithm", "observation", "action", "hyperparameters", "wishes"), CASES)
def test_actions_equal_predict(
    algorithm: str,
    observation: Any,
    action: Any,
    hyperparameters: dict[str, Any],
    wishes: dict[str, Any],
    pytestconfig: pytest.Config,
) -> None:
    model, artifact = trained(algorithm, observation, action, hyperparameters, **wishes)
    scaling = model.get_vec_normalize_env()
    env = model.get_env()
    while isinstance(env, (VecTransposeImage, VecNormalize)):
        env = env.venv
    count = count_of(env.observation_space, pytestconfig.getoption("--long"))
    rows = sampled(env.observation_space, count)
    seen = scaling.normalize_obs(rows) if scaling is not None else rows
    expected, _ = model.predict(seen, deterministic=True)
    agree(served(artifact), flat(rows, count), expected)


@pytest.mark.parametrize("action", [spaces.Discrete(3), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(3)])
def test_ppo_becomes_maskable_where_there_is_a_mask(action: Any) -> None:
    model, artifact = trained("ppo", VECTOR, action, ON, masked=True)
    assert json.loads(artifact.description())["algorithm"] == "maskable_ppo"
    rows = sampled(VECTOR, 10_000)
    expected, _ = model.predict(rows, deterministic=True)
    agree(served(artifact), flat(rows, 10_000), expected)


@pytest.mark.parametrize(
    ("observation", "kwargs"),
    [
        (VECTOR, {"lstm_hidden_size": 8, "n_lstm_layers": 2}),
        (PICTURE, {"lstm_hidden_size": 8}),
        (DICT, {"lstm_hidden_size": 8, "enable_critic_lstm": False, "shared_lstm": True}),
    ],
)
def test_recurrent_state_equals_predict(observation: Any, kwargs: dict[str, Any]) -> None:
    hyperparameters = {**ON, "policy_kwargs": {**kwargs, "net_arch": [16]}}
    model, artifact = trained("recurrent_ppo", observation, spaces.Discrete(3), hyperparameters)
    served(artifact)
    session = onnxruntime.InferenceSession(artifact.graph(), providers=["CPUExecutionProvider"])
    layers, size = kwargs.get("n_lstm_layers", 1), 8
    ours = [np.zeros((layers, 1, size), np.float32)] * 2
    state: Any = None
    for step in range(20):
        rows = sampled(observation, step + 1)
        one: Any = {key: leaf[-1] for key, leaf in rows.items()} if isinstance(rows, dict) else rows[-1]
        expected, state = model.predict(one, state=state, episode_start=np.array([step == 0]), deterministic=True)
        single = {key: leaf[None] for key, leaf in one.items()} if isinstance(one, dict) else one[None]
        answered, _, *ours = session.run(None, {"observation": flat(single, 1), "hidden": ours[0], "cell": ours[1]})
        np.testing.assert_allclose(np.concatenate(ours), np.concatenate(state), atol=1e-5)
        assert answered[0] == expected
