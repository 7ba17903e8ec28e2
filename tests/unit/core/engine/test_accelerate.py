from __future__ import annotations

import copy
import io
import json
import zipfile
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn
from torch.distributions import Distribution

from auxilium_rl.core.engine import accelerate, probe
from auxilium_rl.core.engine.network import HandNetwork

PPO_SMALL: dict[str, Any] = {"n_steps": 32, "batch_size": 16, "n_epochs": 3}
DQN_SMALL: dict[str, Any] = {"learning_starts": 40, "buffer_size": 200, "target_update_interval": 40}

CASES: dict[str, tuple[type[BaseAlgorithm], dict[str, Any]]] = {
    "ppo": (PPO, PPO_SMALL),
    "ppo-entropy-and-value-clip": (
        PPO,
        {**PPO_SMALL, "ent_coef": 0.01, "clip_range_vf": 0.2, "max_grad_norm": 0.1, "gae_lambda": 0.8},
    ),
    "ppo-schedules": (
        PPO,
        {**PPO_SMALL, "learning_rate": LinearSchedule(3e-3, 0.0, 1.0), "clip_range": LinearSchedule(0.3, 0.0, 1.0)},
    ),
    "ppo-uneven-minibatches": (PPO, {**PPO_SMALL, "batch_size": 11, "normalize_advantage": False}),
    "ppo-huge-steps": (PPO, {**PPO_SMALL, "learning_rate": 0.05, "vf_coef": 0.9}),
    "ppo-target-kl": (PPO, {**PPO_SMALL, "target_kl": 0.003, "learning_rate": 3e-3}),
    "ppo-relu-two-nets": (
        PPO,
        {**PPO_SMALL, "policy_kwargs": {"net_arch": {"pi": [17], "vf": [33, 9]}, "activation_fn": nn.ReLU}},
    ),
    "ppo-no-hidden-layer": (PPO, {**PPO_SMALL, "policy_kwargs": {"net_arch": []}}),
    "a2c": (A2C, {}),
    "a2c-entropy": (A2C, {"n_steps": 16, "ent_coef": 0.02, "normalize_advantage": True, "gae_lambda": 0.9}),
    "a2c-adam": (A2C, {"use_rms_prop": False, "policy_kwargs": {"net_arch": [24, 8], "activation_fn": nn.ReLU}}),
    "dqn": (DQN, DQN_SMALL),
    "dqn-options": (
        DQN,
        {
            **DQN_SMALL,
            "batch_size": 17,
            "gradient_steps": 2,
            "tau": 0.5,
            "train_freq": 2,
            "exploration_fraction": 0.9,
            "policy_kwargs": {"net_arch": [20, 10], "activation_fn": nn.Tanh},
        },
    ),
}

pytestmark = pytest.mark.filterwarnings("ignore:You have specified a mini-batch size:UserWarning")


@pytest.fixture(autouse=True)
def _settings() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    Distribution.set_default_validate_args(__debug__)


def build(cls: type[BaseAlgorithm], lanes: int, *, fast: bool, seed: int = 3, **arguments: Any) -> Any:
    # Episodes are cut after a few steps, so that there is much to bootstrap.
    env = DummyVecEnv([lambda: Monitor(gym.make("CartPole-v1", max_episode_steps=13)) for _ in range(lanes)])
    model: Any = cls("MlpPolicy", env, seed=seed, device="cpu", **arguments)  # type: ignore[call-arg]
    model.set_logger(Logger(None, []))
    if fast:
        report = accelerate(model)
        assert report.name == "fast"
        assert report.reason == ""
    return model


def differences(left: Any, right: Any) -> list[str]:
    ours, theirs = left.policy.state_dict(), right.policy.state_dict()
    found = [name for name in ours if not torch.equal(ours[name], theirs[name])]
    found += [] if list(ours) == list(theirs) else ["names"]
    ours, theirs = left.policy.optimizer.state_dict(), right.policy.optimizer.state_dict()
    assert ours["param_groups"] == theirs["param_groups"]
    assert ours["state"].keys() == theirs["state"].keys()
    for index, state in ours["state"].items():
        assert state.keys() == theirs["state"][index].keys()
        found += [f"{index}.{name}" for name in state if not torch.equal(state[name], theirs["state"][index][name])]
    return found


def metrics(model: Any) -> dict[str, Any]:
    return {name: value for name, value in model.logger.name_to_value.items() if not name.startswith("time/")}


def learn(model: Any, steps: int, **options: Any) -> Any:
    return model.learn(steps, **options)


@pytest.mark.parametrize("lanes", [1, 4])
@pytest.mark.parametrize("case", CASES)
def test_weights_optimizer_and_metrics_are_those_of_stock(case: str, lanes: int) -> None:
    cls, arguments = CASES[case]
    arguments = {**arguments, "policy_kwargs": dict(arguments.get("policy_kwargs", {}))}
    steps = 400 * lanes if cls is not A2C else 480 * lanes
    stock = learn(build(cls, lanes, fast=False, **copy.deepcopy(arguments)), steps)
    random = torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[index,union-attr]
    fast = learn(build(cls, lanes, fast=True, **copy.deepcopy(arguments)), steps)
    assert stock._n_updates >= 20
    assert differences(fast, stock) == []
    assert torch.equal(torch.get_rng_state(), random[0])
    assert np.random.get_state()[1].tolist() == random[1]  # type: ignore[index,union-attr]
    assert list(fast.ep_info_buffer)
    assert [e["r"] for e in fast.ep_info_buffer] == [e["r"] for e in stock.ep_info_buffer]
    assert fast._n_updates == stock._n_updates
    ours, theirs = metrics(fast), metrics(stock)
    assert ours.keys() == theirs.keys()
    assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-7, nan_ok=True)


def test_another_seed_gives_other_weights() -> None:
    one = learn(build(PPO, 1, fast=True, **PPO_SMALL), 64)
    other = learn(build(PPO, 1, fast=True, seed=4, **PPO_SMALL), 64)
    assert differences(one, other)


@pytest.mark.parametrize("case", ["ppo", "a2c", "dqn"])
def test_a_zip_goes_on_in_plain_sb3_and_in_the_engine(case: str) -> None:
    cls, arguments = CASES[case]
    stock, fast = (learn(build(cls, 2, fast=kind, **arguments), 200) for kind in (False, True))
    target = io.BytesIO()
    fast.save(target)
    loaded = [cls.load(io.BytesIO(target.getvalue()), device="cpu") for _ in range(2)]
    assert type(loaded[0]) is cls
    assert all(differences(model, stock) == [] for model in loaded)
    archive = zipfile.ZipFile(target)
    assert "policy.optimizer.pth" in archive.namelist()
    assert "fast" not in json.loads(archive.read("data"))
    accelerated: Any = loaded[1]
    assert accelerate(loaded[1]).reason == ""
    ends = []
    for model in (stock, fast, *loaded):
        # A zip holds neither environments nor replay buffers: all four begin the same new ones.
        model.set_env(build(cls, 2, fast=False, **arguments).get_env())
        if isinstance(model, DQN):
            assert model.replay_buffer is not None
            model.replay_buffer = type(model.replay_buffer)(
                200, model.observation_space, model.action_space, device="cpu", n_envs=2
            )
        model.set_logger(Logger(None, []))
        model._last_obs = None
        model.set_random_seed(11)
        ends.append(learn(model, 200))
    assert accelerated is loaded[1]
    assert [differences(end, ends[0]) for end in ends] == [[], [], [], []]


@pytest.mark.parametrize("case", ["ppo", "dqn"])
def test_learning_in_two_parts_and_predicting_between_is_as_with_stock(case: str) -> None:
    cls, arguments = CASES[case]
    models = [build(cls, 1, fast=kind, **arguments) for kind in (False, True)]
    for model in models:
        torch.manual_seed(5)
        np.random.seed(5)
        learn(model, 96)
        observations = np.linspace(-1, 1, 20, dtype=np.float32).reshape(5, 4)
        model.seen = [model.predict(observations, deterministic=kind)[0].tolist() for kind in (True, False)]
        learn(model, 96, reset_num_timesteps=False)
    assert models[0].seen == models[1].seen
    assert models[0].num_timesteps == models[1].num_timesteps
    assert differences(models[1], models[0]) == []


def test_parameters_can_be_set_between_learning() -> None:
    source = learn(build(PPO, 1, fast=False, **PPO_SMALL), 64)
    target = learn(build(PPO, 1, fast=True, **PPO_SMALL), 32)
    target.set_parameters(source.get_parameters(), device="cpu")
    assert differences(target, source) == []


def test_a_copy_of_a_policy_is_a_stock_policy_of_its_own() -> None:
    model = learn(build(PPO, 1, fast=True, **PPO_SMALL), 64)
    before = model.policy.optimizer.state_dict()
    copied = copy.deepcopy(model.policy)
    assert type(copied.optimizer) is torch.optim.Adam
    sum(part.sum() for part in copied.parameters()).backward()
    copied.optimizer.step()
    after = model.policy.optimizer.state_dict()
    assert all(torch.equal(before["state"][0][name], after["state"][0][name]) for name in before["state"][0])
    assert float(copied.optimizer.state_dict()["state"][3]["step"]) == float(before["state"][3]["step"]) + 1


def test_the_optimizer_can_also_be_driven_by_autograd() -> None:
    models = [build(PPO, 1, fast=kind, **PPO_SMALL) for kind in (False, True)]
    inputs = torch.linspace(-1, 1, 12).view(3, 4)
    for model in models:
        for _ in range(3):
            model.policy.optimizer.zero_grad()
            values, log_prob, _ = model.policy.evaluate_actions(inputs, torch.tensor([0, 1, 1]))
            (values.sum() + log_prob.sum()).backward()
            model.policy.optimizer.step()
    assert differences(models[1], models[0]) == []
    optimizer = models[1].policy.optimizer
    with pytest.raises(NotImplementedError):
        optimizer.step(lambda: 0.0)
    optimizer.zero_grad()
    with pytest.raises(RuntimeError, match="gradients of all parameters"):
        optimizer.step()


class _Watcher(BaseCallback):
    def __init__(self, stop_at: int) -> None:
        super().__init__()
        self.stop_at, self.seen = stop_at, []  # type: ignore[var-annotated]

    def _on_rollout_start(self) -> None:
        self.seen.append("start")

    def _on_step(self) -> bool:
        names = ("actions", "clipped_actions", "rewards", "dones", "new_obs", "values", "log_probs", "obs_tensor")
        self.seen.append([np.asarray(self.locals[name]).tolist() for name in names] + [self.num_timesteps])
        return self.num_timesteps < self.stop_at

    def _on_rollout_end(self) -> None:
        self.seen.append(np.asarray(self.locals["values"]).tolist())


@pytest.mark.parametrize("cls", [PPO, A2C])
def test_callbacks_see_what_they_see_in_stock(cls: type[BaseAlgorithm]) -> None:
    arguments = PPO_SMALL if cls is PPO else {}
    watchers = []
    for fast in (False, True):
        watchers.append(_Watcher(stop_at=90))
        model = build(cls, 2, fast=fast, **arguments)
        learn(model, 200, callback=watchers[-1])
        assert model.num_timesteps == 90
    assert watchers[0].seen == watchers[1].seen


def test_not_a_number_ends_learning_as_in_stock() -> None:
    for fast in (False, True):
        model = build(PPO, 1, fast=fast, **PPO_SMALL)
        Distribution.set_default_validate_args(False)
        with torch.no_grad():
            model.policy.action_net.bias.fill_(torch.nan)
        with pytest.raises(RuntimeError, match="probability tensor contains"):
            learn(model, 32)


class _Strange(gym.Env[Any, Any]):
    def __init__(self, observation: spaces.Space[Any], action: spaces.Space[Any]) -> None:
        self.observation_space, self.action_space = observation, action


FLAT = spaces.Box(-1, 1, (3,), np.float32)
UNCOVERED: list[tuple[type[BaseAlgorithm], spaces.Space[Any], spaces.Space[Any], dict[str, Any], str]] = [
    (PPO, spaces.Box(-1, 1, (3, 2), np.float32), spaces.Discrete(2), {}, "one-dimensional"),
    (PPO, spaces.Box(-1, 1, (3,), np.float64), spaces.Discrete(2), {}, "float32"),
    (PPO, spaces.Discrete(3), spaces.Discrete(2), {}, "Box"),
    (A2C, FLAT, spaces.Box(-1, 1, (2,), np.float32), {}, "Discrete"),
    (PPO, FLAT, spaces.Discrete(2, start=1), {}, "Discrete"),
    (PPO, FLAT, spaces.Discrete(2), {"policy_kwargs": {"activation_fn": nn.ELU}}, "ELU"),
    (PPO, FLAT, spaces.Discrete(2), {"policy_kwargs": {"net_arch": {"pi": [8], "vf": [8, 1]}}}, "width 1"),
    (DQN, FLAT, spaces.Discrete(1), {"policy_kwargs": {"net_arch": [1, 8]}}, "width 1"),
    (PPO, FLAT, spaces.Discrete(2), {"policy_kwargs": {"optimizer_kwargs": {"weight_decay": 0.1}}}, "optimizer"),
    (DQN, FLAT, spaces.Discrete(2), {"policy_kwargs": {"optimizer_class": torch.optim.SGD}}, "SGD"),
    (DQN, FLAT, spaces.Discrete(2), {"n_steps": 3}, "replay buffer"),
]


@pytest.mark.parametrize(("cls", "observation", "action", "arguments", "reason"), UNCOVERED)
def test_what_is_not_covered_stays_stock_and_says_why(
    cls: type[BaseAlgorithm],
    observation: spaces.Space[Any],
    action: spaces.Space[Any],
    arguments: dict[str, Any],
    reason: str,
) -> None:
    if cls is DQN:
        arguments = {**arguments, "buffer_size": 100}
    model = cls("MlpPolicy", _Strange(observation, action), device="cpu", **copy.deepcopy(arguments))  # type: ignore[call-arg,arg-type]
    report = accelerate(model)
    assert (report.name, type(model)) == ("stock", cls)
    assert reason in report.reason


def test_an_accelerated_model_is_left_as_it_is() -> None:
    model = build(PPO, 1, fast=True, **PPO_SMALL)
    kind = type(model)
    assert accelerate(model).reason
    assert type(model) is kind


@pytest.mark.parametrize("part", ["networks", "gradients", "optimizer"])
def test_a_machine_that_rounds_otherwise_stays_stock(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if part == "networks":
        monkeypatch.setattr(HandNetwork, "__call__", lambda self, inputs: inputs)
    elif part == "gradients":
        monkeypatch.setattr(HandNetwork, "backward", lambda self, gradient, kept: None)
    else:
        real = probe.flatten

        def wrong(optimizer: Any) -> Any:
            flat = real(optimizer)
            flat.update = lambda: None
            return flat

        monkeypatch.setattr(probe, "flatten", wrong)
    model = build(PPO, 1, fast=False, **PPO_SMALL)
    report = accelerate(model)
    assert (report.name, type(model)) == ("stock", PPO)
    assert part.rstrip("s") in report.reason


def test_accelerating_draws_no_random_numbers() -> None:
    model = build(DQN, 1, fast=False, **DQN_SMALL)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[index,union-attr]
    accelerate(model)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()  # type: ignore[index,union-attr]


def test_scalars_of_numpy_as_hyperparameters_round_as_in_stock() -> None:
    arguments = {**PPO_SMALL, "gamma": np.float64(0.97), "gae_lambda": np.float64(0.9)}
    stock, fast = (learn(build(PPO, 2, fast=kind, **arguments), 128) for kind in (False, True))
    assert differences(fast, stock) == []


def test_one_rollout_can_be_learned_from_twice() -> None:
    models = []
    for fast in (False, True):
        models.append(learn(build(PPO, 1, fast=fast, **PPO_SMALL), 64))
        models[-1].train()
    assert differences(models[1], models[0]) == []


def test_divergence_in_the_last_rollout_is_an_error_as_in_stock() -> None:
    for fast in (False, True):
        model = build(PPO, 1, fast=fast, learning_rate=1e30, **PPO_SMALL)
        Distribution.set_default_validate_args(True)
        with pytest.raises(ValueError, match="logits"):
            learn(model, 32)
