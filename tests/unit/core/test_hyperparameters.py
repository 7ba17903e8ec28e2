"""Hyperparameters: the catalogue is Stable-Baselines3's, and every wrong value is named."""

from __future__ import annotations

import inspect
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3.common.utils import LinearSchedule
from torch import nn

from auxilium_rl.core.catalogue import ALGORITHMS, NOT_SETTABLE
from auxilium_rl.core.errors import InvalidRequest
from auxilium_rl.core.hyperparameters import check_together, parse_text, parse_typed
from auxilium_rl.core.sb3_arguments import algorithm_class, sb3_arguments

OURS = {"self", "seed", "_init_setup_model"}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_catalogue_is_that_of_the_installed_version(name: str) -> None:
    signature = inspect.signature(algorithm_class(name).__init__).parameters
    settable = {n: p.default for n, p in signature.items() if n not in OURS and n not in NOT_SETTABLE}
    assert {h.name: h.default for h in ALGORITHMS[name].hyperparameters} == settable


@pytest.mark.parametrize("name", ALGORITHMS)
def test_defaults_parse_and_build_a_model(name: str) -> None:
    parsed = parse_typed(name, {})
    env_id = "CartPole-v1" if "Discrete" in ALGORITHMS[name].actions else "Pendulum-v1"
    policy = "MlpLstmPolicy" if name == "recurrent_ppo" else "MlpPolicy"
    model: Any = algorithm_class(name)(policy, env_id, **sb3_arguments(name, parsed))
    model.env.close()
    assert parsed == {h.name: h.default for h in ALGORITHMS[name].hyperparameters}


@pytest.mark.parametrize(
    ("name", "key", "text", "value"),
    [
        ("ppo", "n_steps", "64", 64),
        ("ppo", "n_steps", "1e3", 1000),
        ("ppo", "learning_rate", "3e-4", 3e-4),
        ("ppo", "learning_rate", "lin_3e-4", "lin_0.0003"),
        ("ppo", "clip_range_vf", "none", None),
        ("ppo", "normalize_advantage", "False", False),
        ("ppo", "policy_kwargs", '{"net_arch": [8, 8.0]}', {"net_arch": [8, 8]}),
        ("ppo", "policy_kwargs", '{"net_arch": {"pi": [8], "vf": []}}', {"net_arch": {"pi": [8], "vf": []}}),
        ("ppo", "policy_kwargs", '{"ortho_init": false}', {"ortho_init": False}),
        ("ppo", "policy_kwargs", '{"optimizer_kwargs": {"eps": 1e-6}}', {"optimizer_kwargs": {"eps": 1e-6}}),
        ("dqn", "train_freq", '["1", "episode"]', [1, "episode"]),
        ("dqn", "gradient_steps", "-1", -1),
        ("sac", "ent_coef", "auto_0.1", "auto_0.1"),
        ("sac", "target_entropy", "-2", -2.0),
        ("td3", "action_noise", '{"type": "normal", "sigma": 0.1}', {"type": "normal", "sigma": 0.1}),
        ("tqc", "policy_kwargs", '{"n_quantiles": 25.0}', {"n_quantiles": 25}),
        ("recurrent_ppo", "policy_kwargs", '{"lstm_hidden_size": 64}', {"lstm_hidden_size": 64}),
    ],
)
def test_text_values(name: str, key: str, text: str, value: Any) -> None:
    assert parse_text(name, {key: text})[key] == value


@pytest.mark.parametrize(
    ("name", "key", "given_value", "expected"),
    [
        ("ppo", "gama", 1, "did you mean gamma?"),
        ("ppo", "policy_kwargs", {"n_critics": 2}, "is not one of net_arch"),
        ("recurrent_ppo", "policy_kwargs", {"n_lstm_layers": 0}, "a whole number from 1 to 4096"),
        ("sac", "action_noise", {"type": "pink", "sigma": 1}, "normal"),
        ("sac", "action_noise", {"type": "normal", "sigma": 0}, "number above 0"),
        ("sac", "ent_coef", "auto_x", "auto_<number>"),
        ("sac", "target_entropy", "much", "or auto"),
        ("ppo", "n_steps", 1.5, "a whole number from 1 to 1e+06"),
        ("ppo", "n_steps", True, "True given"),
        ("ppo", "gamma", "nan", "a finite number from 0 to 1"),
        ("ppo", "learning_rate", 0, "a number, or lin_<number>"),
        ("ppo", "learning_rate", "lin_x", "lin_<number>"),
        ("ppo", "learning_rate", None, "None given"),
        ("ppo", "normalize_advantage", 1.0, "true or false"),
        ("ppo", "policy_kwargs", "[1]", "a JSON object"),
        ("ppo", "policy_kwargs", "{", "a JSON object"),
        ("ppo", "policy_kwargs", {"features_extractor_class": "os.system"}, "is not one of net_arch"),
        ("ppo", "policy_kwargs", {"net_arch": [0]}, "whole numbers from 1 to 4096"),
        ("ppo", "policy_kwargs", {"net_arch": 5}, "whole numbers from 1 to 4096"),
        ("ppo", "policy_kwargs", {"net_arch": {"q": []}}, "a list of widths"),
        ("ppo", "policy_kwargs", {"activation_fn": "os.system"}, "one of tanh, relu"),
        ("ppo", "policy_kwargs", {"ortho_init": 1}, "true or false"),
        ("ppo", "policy_kwargs", {"optimizer_kwargs": {"eps": 0}}, "eps (above 0)"),
        ("ppo", "policy_kwargs", {"optimizer_kwargs": {"lr": 1}}, "eps (above 0)"),
        ("ppo", "policy_kwargs", {"optimizer_kwargs": {"eps": "x"}}, "eps (above 0)"),
        ("dqn", "train_freq", ["4", "hour"], "a whole number of steps"),
        ("dqn", "train_freq", "x", "a whole number of steps"),
        ("dqn", "buffer_size", "9" * 400, "a whole number from 1"),
    ],
)
def test_wrong_values_are_named(name: str, key: str, given_value: Any, expected: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        parse_typed(name, {key: given_value})
    (violation,) = raised.value.violations
    assert violation.field == f"hyperparameters.{key}"
    assert expected in violation.description


def test_defaults_of_protocol_and_operator() -> None:
    assert parse_text("dqn", {})["buffer_size"] == 50_000
    assert parse_typed("dqn", {})["buffer_size"] == 1_000_000
    assert parse_text("dqn", {}, {"buffer_size": 7})["buffer_size"] == 7
    assert parse_text("dqn", {"buffer_size": "8"}, {"buffer_size": 7})["buffer_size"] == 8


@pytest.mark.parametrize(
    ("name", "values", "lanes", "field"),
    [
        ("ppo", {"n_steps": 4, "batch_size": 9}, 2, "batch_size"),
        ("ppo", {"batch_size": 1}, 1, "batch_size"),
        ("ppo", {"n_steps": 9, "batch_size": 8}, 1, "batch_size"),
        ("a2c", {"n_steps": 1, "normalize_advantage": True}, 1, "n_steps"),
        ("dqn", {"exploration_initial_eps": 0.1, "exploration_final_eps": 0.2}, 1, "exploration_final_eps"),
        ("dqn", {"train_freq": [1, "episode"]}, 2, "train_freq"),
        ("dqn", {"gradient_steps": 0}, 1, "gradient_steps"),
        ("dqn", {"optimize_memory_usage": True}, 1, "optimize_memory_usage"),
        ("dqn", {"buffer_size": 1}, 2, "buffer_size"),
        ("sac", {"gradient_steps": 0}, 1, "gradient_steps"),
        (
            "recurrent_ppo",
            {"policy_kwargs": {"shared_lstm": True}},
            1,
            "policy_kwargs",
        ),
    ],
)
def test_contradictions(name: str, values: dict[str, Any], lanes: int, field: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        check_together(name, parse_typed(name, values), lanes)
    assert [v.field for v in raised.value.violations] == [f"hyperparameters.{field}"]


@given(st.sampled_from(sorted(ALGORITHMS)), st.data())
def test_any_text_is_a_value_or_a_named_error(name: str, data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(ALGORITHMS[name].names) | st.text(max_size=20))
    text = data.draw(st.text(max_size=40) | st.floats().map(repr) | st.integers().map(str))
    try:
        parsed = parse_text(name, {key: text})
    except InvalidRequest as refused:
        assert [v.field for v in refused.violations] == [f"hyperparameters.{key}"]
    else:
        assert json.loads(json.dumps(parsed, allow_nan=False)) == parsed
        assert parse_typed(name, parsed) == parsed


def test_arguments() -> None:
    parsed = parse_text("dqn", {"train_freq": '["2", "step"]', "learning_rate": "lin_0.1"})
    parsed["policy_kwargs"] = {"activation_fn": "relu"}
    arguments = sb3_arguments("dqn", parsed)
    assert arguments["train_freq"] == (2, "step")
    assert isinstance(arguments["learning_rate"], LinearSchedule)
    assert arguments["learning_rate"](0.5) == pytest.approx(0.05)
    assert arguments["policy_kwargs"] == {"activation_fn": nn.ReLU}


def test_noise_has_the_length_of_an_action() -> None:
    parsed = parse_typed("td3", {"action_noise": {"type": "ornstein_uhlenbeck", "sigma": 0.3}})
    noise = sb3_arguments("td3", parsed, action_dim=3)["action_noise"]
    assert noise().shape == (3,)
