"""A value function with a learning rate of its own, and zips that Stable-Baselines3 still loads."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from stable_baselines3 import A2C, PPO

from auxilium_rl.core.hyperparameters import parse_typed
from auxilium_rl.core.learner_state import read_parameters
from auxilium_rl.core.parameter_groups import pace_value_function


def made(make: Any = PPO, factor: float | None = None, **more: Any) -> Any:
    kwargs = {"net_arch": [8], **more}
    batch = {"batch_size": 32} if make is PPO else {}
    model = make("MlpPolicy", "CartPole-v1", n_steps=32, seed=0, device="cpu", policy_kwargs=kwargs, **batch)
    if factor is not None:
        pace_value_function(model, factor)
    return model


def moved(model: Any, before: dict[str, Any], name: str) -> torch.Tensor:
    return (model.policy.state_dict()[name] - before[name]).abs().mean()


@pytest.mark.parametrize("make", [PPO, A2C])
def test_a_factor_of_one_changes_nothing(make: Any) -> None:
    plain = made(make).learn(96)
    paced = made(make, 1.0).learn(96)
    for name, weights in plain.policy.state_dict().items():
        assert torch.equal(weights, paced.policy.state_dict()[name]), name


def test_the_value_function_learns_at_its_own_pace() -> None:
    before = {name: value.clone() for name, value in made().policy.state_dict().items()}
    plain = made().learn(32)
    paced = made(factor=0.01).learn(32)
    slower = moved(paced, before, "value_net.weight") / moved(plain, before, "value_net.weight")
    same = moved(paced, before, "action_net.weight") / moved(plain, before, "action_net.weight")
    assert slower < 0.05
    assert same == pytest.approx(1, abs=0.2)
    rates = [group["lr"] for group in paced.policy.optimizer.param_groups]
    assert rates == pytest.approx([3e-4, 3e-6])


@pytest.mark.parametrize("shared", [True, False])
def test_what_is_saved_is_loaded(shared: bool) -> None:
    """By Stable-Baselines3 itself, with one group; and by us, after which learning goes on as if nothing had been."""
    one = made(factor=3.0, share_features_extractor=shared)
    one.learn(64)
    archive = io.BytesIO()
    one.save(archive)
    archive.seek(0)
    stock = PPO.load(archive, device="cpu")  # a file of our own making
    assert len(stock.policy.optimizer.param_groups) == 1
    again = made(factor=3.0, share_features_extractor=shared)
    read_parameters(again, archive.getvalue())
    assert torch.equal(again.policy.value_net.weight, one.policy.value_net.weight)
    ours, theirs = (model.policy.optimizer.state_dict() for model in (again, one))
    for number, state in theirs["state"].items():
        for name, value in state.items():
            assert torch.equal(torch.as_tensor(ours["state"][number][name]), torch.as_tensor(value)), (number, name)
    parameters = dict(stock.policy.named_parameters())
    for name, parameter in one.policy.named_parameters():
        expected = one.policy.optimizer.state[parameter]["exp_avg"]
        assert torch.equal(stock.policy.optimizer.state[parameters[name]]["exp_avg"], expected), name


def test_it_is_a_hyperparameter() -> None:
    parsed = parse_typed("ppo", {"policy_kwargs": {"vf_lr_factor": 3}})
    assert parsed["policy_kwargs"] == {"vf_lr_factor": 3.0}
