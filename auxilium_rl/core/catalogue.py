"""The hyperparameters of every algorithm: name, type, default, accepted values, meaning.

Names and defaults are Stable-Baselines3's; a test compares them with the installed version, so that the server need not
import it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

__all__ = ["ALGORITHMS", "NOT_SETTABLE", "AlgorithmInfo", "HyperparameterInfo"]

Kind = Literal["int", "float", "bool", "schedule", "train_freq", "policy_kwargs"]


@dataclass(frozen=True)
class HyperparameterInfo:
    """One hyperparameter.

    Attributes:
        kind: what a value is; ``schedule`` is a number or ``lin_<number>``, which falls linearly to 0.
        default: a JSON value.
        low, high: bounds, both included unless ``above_low`` says that ``low`` itself is not.
        optional: none is a value.
    """

    name: str
    kind: Kind
    default: Any
    meaning: str
    low: float = float("-inf")
    high: float = float("inf")
    above_low: bool = False
    optional: bool = False

    @property
    def type(self) -> str:
        """The kind of value, in words."""
        return f"{self.kind} or none" if self.optional else self.kind

    @property
    def accepted(self) -> str:
        """What is accepted, in words."""
        text = {
            "int": "a whole number",
            "float": "a finite number",
            "bool": "true or false",
            "schedule": "a number, or lin_<number> to fall linearly to 0,",
            "train_freq": 'a whole number of steps, or ["<number>", "step" or "episode"]',
            "policy_kwargs": f"a JSON object of {', '.join(POLICY_KWARGS)}",
        }[self.kind]
        if self.kind in {"int", "float", "schedule"}:
            text += self._range()
        return f"{text}, or none" if self.optional else text

    def _range(self) -> str:
        low = f"above {self.low:g}" if self.above_low else f"from {self.low:g}"
        if self.low == float("-inf"):
            return ""
        return f" {low}" if self.high == float("inf") else f" {low} to {self.high:g}"


@dataclass(frozen=True)
class AlgorithmInfo:
    """An algorithm and its hyperparameters, in Stable-Baselines3's order."""

    name: str
    title: str
    hyperparameters: tuple[HyperparameterInfo, ...]

    def __getitem__(self, name: str) -> HyperparameterInfo:
        return next(h for h in self.hyperparameters if h.name == name)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all hyperparameters."""
        return tuple(h.name for h in self.hyperparameters)


POLICY_KWARGS = ("net_arch", "activation_fn", "ortho_init", "optimizer_kwargs")
"""What ``policy_kwargs`` may hold; nothing in it names code."""

NOT_SETTABLE: Mapping[str, str] = {
    "use_sde": "it is for continuous actions only",
    "sde_sample_freq": "it is for continuous actions only",
    "rollout_buffer_class": "it would name code",
    "rollout_buffer_kwargs": "it belongs to rollout_buffer_class",
    "replay_buffer_class": "it would name code",
    "replay_buffer_kwargs": "it belongs to replay_buffer_class",
    "tensorboard_log": "every run's event files lie under LOGS_DIR",
    "verbose": "LOG_LEVEL decides what is logged",
    "device": "workers train on the CPU",
    "policy": "the policy follows from the spaces",
    "env": "the environment is not a hyperparameter",
}
"""Arguments of Stable-Baselines3 that a caller cannot set, and why."""

_HUGE = 1e9


def _int(name: str, default: int | None, meaning: str, low: int = 1, high: float = 1_000_000) -> HyperparameterInfo:
    return HyperparameterInfo(name, "int", default, meaning, low, high)


def _float(name: str, default: float, meaning: str, low: float = -_HUGE, high: float = _HUGE) -> HyperparameterInfo:
    return HyperparameterInfo(name, "float", default, meaning, low, high)


_LEARNING_RATE = HyperparameterInfo(
    "learning_rate", "schedule", 3e-4, "Step size of the optimizer.", 0.0, 1e3, above_low=True
)
_GAMMA = _float("gamma", 0.99, "Discount of a reward one step later.", 0.0, 1.0)
_GAE_LAMBDA = _float("gae_lambda", 0.95, "Bias (0) against variance (1) of the advantage estimate.", 0.0, 1.0)
_ENT_COEF = _float("ent_coef", 0.0, "Weight of the entropy in the loss; more explores longer.")
_VF_COEF = _float("vf_coef", 0.5, "Weight of the value function in the loss.")
_MAX_GRAD_NORM = HyperparameterInfo(
    "max_grad_norm", "float", 0.5, "Gradients longer than this are shortened to it.", 0.0, _HUGE, above_low=True
)
_NORMALIZE = HyperparameterInfo("normalize_advantage", "bool", True, "Scale advantages to mean 0 and deviation 1.")
_STATS = _int("stats_window_size", 100, "Episodes that the logged means are taken over.")
_POLICY_KWARGS = HyperparameterInfo(
    "policy_kwargs", "policy_kwargs", None, "Shape of the networks and their activation.", optional=True
)

_PPO = (
    _LEARNING_RATE,
    _int("n_steps", 2048, "Steps of each lane between two updates."),
    _int("batch_size", 64, "Steps in a minibatch."),
    _int("n_epochs", 10, "Passes over the collected steps in an update.", high=10_000),
    _GAMMA,
    _GAE_LAMBDA,
    HyperparameterInfo(
        "clip_range", "schedule", 0.2, "How far an update may move the policy.", 0.0, _HUGE, above_low=True
    ),
    HyperparameterInfo(
        "clip_range_vf",
        "schedule",
        None,
        "How far an update may move the value function; none: as far as it likes.",
        0.0,
        _HUGE,
        above_low=True,
        optional=True,
    ),
    _NORMALIZE,
    _ENT_COEF,
    _VF_COEF,
    _MAX_GRAD_NORM,
    HyperparameterInfo(
        "target_kl",
        "float",
        None,
        "An update ends early when the policy has moved this far; none: never.",
        0.0,
        _HUGE,
        above_low=True,
        optional=True,
    ),
    _STATS,
    _POLICY_KWARGS,
)

_A2C = (
    replace(_LEARNING_RATE, default=7e-4),
    _int("n_steps", 5, "Steps of each lane between two updates."),
    _GAMMA,
    replace(_GAE_LAMBDA, default=1.0),
    _ENT_COEF,
    _VF_COEF,
    _MAX_GRAD_NORM,
    HyperparameterInfo("rms_prop_eps", "float", 1e-5, "Keeps RMSprop from dividing by zero.", 0.0, 1.0, above_low=True),
    HyperparameterInfo("use_rms_prop", "bool", True, "RMSprop as the optimizer; else Adam."),
    replace(_NORMALIZE, default=False),
    _STATS,
    _POLICY_KWARGS,
)

_DQN = (
    replace(_LEARNING_RATE, default=1e-4),
    _int("buffer_size", 1_000_000, "Transitions kept to learn from.", high=50_000_000),
    _int("learning_starts", 100, "Steps taken before learning begins.", low=0, high=1e9),
    _int("batch_size", 32, "Transitions in a minibatch."),
    _float("tau", 1.0, "Share of the new weights in the target network at its update.", 0.0, 1.0),
    _GAMMA,
    HyperparameterInfo("train_freq", "train_freq", 4, "Steps between two updates.", 1, 1_000_000),
    _int("gradient_steps", 1, "Minibatches of an update; -1: as many as steps were taken.", low=-1),
    HyperparameterInfo("optimize_memory_usage", "bool", False, "Keep next observations only once."),
    _int("n_steps", 1, "Steps of reward that a target sums up.", high=1000),
    _int("target_update_interval", 10_000, "Steps between two updates of the target network.", high=1e9),
    _float("exploration_fraction", 0.1, "Share of the run over which exploration falls.", 0.0, 1.0),
    _float("exploration_initial_eps", 1.0, "Share of random actions at first.", 0.0, 1.0),
    _float("exploration_final_eps", 0.05, "Share of random actions in the end.", 0.0, 1.0),
    replace(_MAX_GRAD_NORM, default=10),
    _STATS,
    _POLICY_KWARGS,
)

ALGORITHMS: Mapping[str, AlgorithmInfo] = {
    "ppo": AlgorithmInfo("ppo", "Proximal Policy Optimization", _PPO),
    "a2c": AlgorithmInfo("a2c", "Advantage Actor-Critic", _A2C),
    "dqn": AlgorithmInfo("dqn", "Deep Q-Network", _DQN),
}
"""Every algorithm by name."""
