"""The names of RL4Sys on top of ``Agent``, for programs that were written for it.

``RL4SysAgent`` reads an RL4Sys configuration file; ``settings_of`` says how, key by key. A trajectory is an episode:
what was requested and never added to it was not taken, and is not sent.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import structlog
from gymnasium import spaces

from auxilium_rl.agent.agent import Agent
from auxilium_rl.agent.episode import Step
from auxilium_rl.client.errors import InvalidArgument
from auxilium_rl.wire.rows import AnySpace

__all__ = ["RL4SysAction", "RL4SysAgent", "RL4SysTrajectory", "settings_of", "spaces_in"]

_log = structlog.get_logger(__name__)
_NEVER = 10**12
_ALGORITHMS = {"PPO": "ppo", "PPO_Continuous": "ppo", "DQN": "dqn", "SAC": "sac", "TD3": "td3", "DDPG": "ddpg"}
_Values = dict[str, Any]
_numbers = itertools.count(1)

_ON_POLICY: Mapping[str, str] = {
    "traj_per_epoch": "n_steps",  # it counts steps, whatever its name says
    "batch_size": "batch_size",
    "clip_ratio": "clip_range",
    "gamma": "gamma",
    "lam": "gae_lambda",
    "pi_lr": "learning_rate",
    "train_pi_iters": "n_epochs",
    "target_kl": "target_kl",
}
_OFF_POLICY: Mapping[str, str] = {
    "batch_size": "batch_size",
    "gamma": "gamma",
    "tau": "tau",
    "buffer_size": "buffer_size",
    "buf_size": "buffer_size",
    "learning_starts": "learning_starts",
    "learning_rate": "learning_rate",
    "q_lr": "learning_rate",
    "train_frequency": "train_freq",
    "train_update_freq": "train_freq",
    "train_q_iters": "gradient_steps",
    "train_iters": "gradient_steps",
}
_OF_ONE: Mapping[str, Mapping[str, str]] = {
    "dqn": {
        "epsilon": "exploration_initial_eps",
        "start_e": "exploration_initial_eps",
        "epsilon_min": "exploration_final_eps",
        "end_e": "exploration_final_eps",
        "exploration_fraction": "exploration_fraction",
        "target_update_freq": "target_update_interval",
        "target_network_frequency": "target_update_interval",
    },
    "sac": {"alpha": "ent_coef"},
    "td3": {"policy_frequency": "policy_delay"},
}
_OURS = {"seed": "seed", "total_timesteps": "total_timesteps", "noise_scale": "noise", "exploration_noise": "noise"}
_SPACES = {"input_size", "act_dim", "discrete"}


class RL4SysAction:
    """An action, and what it was worth.

    Attributes:
        obs: what it was chosen on.
        act: the action, a NumPy array or number.
        rew: its reward; None: not said yet.
        done: it was the last of its trajectory.
        data: ``logp_a`` where the policy has probabilities.
        version: of the policy that chose it.
    """

    def __init__(self, step: Step) -> None:
        self.step, self.added = step, False
        self.obs, self.act = step.seen, np.asarray(step.action)
        self.rew: float | None = None
        self.done = False
        self.data = {"logp_a": step.log_prob}
        self.version = step.version

    def update_reward(self, reward: Any) -> None:
        """Say what it was worth; until it is sent the last word counts. Raises RewardTooLate."""
        self.rew = float(reward)
        if self.added:
            self.step.reward(self.rew)

    def set_done(self, done: bool) -> None:
        """Note that it was the last."""
        self.done = done

    def is_reward_set(self) -> bool:
        """Whether its reward was said."""
        return self.rew is not None

    def is_done(self) -> bool:
        """Whether it was the last."""
        return self.done


class RL4SysTrajectory:
    """An episode.

    Attributes:
        actions: those that were added.
    """

    def __init__(self, name: str, version: int) -> None:
        self.name, self.version = name, version
        self.actions: list[RL4SysAction] = []
        self.completed = False

    def is_completed(self) -> bool:
        """Whether it has ended."""
        return self.completed

    def is_valid(self) -> bool:
        """Whether there is anything in it."""
        return bool(self.actions)


class RL4SysAgent:
    """RL4Sys' agent, documented loop and names; a context manager.

    Args:
        conf_path: an RL4Sys configuration file.
        debug: kept for its callers; the level of logging is structlog's.
        observation_space, action_space: None: as the configuration says (``input_size``, ``act_dim``, ``act_limit``).
        masked: whether actions have masks.
        settings: attributes of ``AgentConfig`` that count more than the file.

    Raises:
        InvalidArgument: names every key at fault; also as ``Agent`` does.
    """

    def __init__(
        self,
        conf_path: str | Path,
        debug: bool = False,
        *,
        observation_space: AnySpace | None = None,
        action_space: AnySpace | None = None,
        masked: bool = False,
        **settings: Any,
    ) -> None:
        told = _read(conf_path)
        mapped, ignored = settings_of(told, int(settings.get("agents", 1)))
        if ignored:
            _log.warning("rl4sys_keys_without_meaning", keys=ignored, file=str(conf_path))
        observation, action = spaces_in(told)
        self.agent = Agent(
            observation if observation_space is None else observation_space,
            action if action_space is None else action_space,
            masked=masked,
            **{**mapped, **settings},
        )
        self.debug = debug
        self.client_id = told["client_id"]

    def __enter__(self) -> RL4SysAgent:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def local_version(self) -> int:
        """Of the policy that acts now."""
        return self.agent.version

    def request_for_action(
        self, traj: RL4SysTrajectory | None = None, obs: Any = None, mask: Any = None
    ) -> tuple[RL4SysTrajectory, RL4SysAction]:
        """An action from the newest policy; a new trajectory where there is none, or it is completed.

        Raises:
            ValueError: no observation.
            ActError: this is none, or nothing is legal.
        """
        if obs is None:
            raise ValueError("obs: none given; an observation is required")
        action = RL4SysAction(self.agent.choose(np.asarray(obs), mask))
        if traj is None or traj.completed:
            traj = RL4SysTrajectory(f"trajectory-{next(_numbers)}", action.version)
        return traj, action

    def add_to_trajectory(self, traj: RL4SysTrajectory, action: RL4SysAction) -> None:
        """The action was taken. Raises ValueError when its trajectory has ended, or it was added before."""
        if traj.completed or action.added:
            raise ValueError("action: added already" if action.added else "traj: completed; request another")
        if not np.array_equal(np.asarray(action.act), np.asarray(action.step.action)):
            raise ValueError(
                f"action: {action.act} given, but {action.step.action} was chosen; what the policy did not choose "
                "it cannot learn from"
            )
        self.agent.record(action.step, episode=traj.name)
        action.added = True
        traj.actions.append(action)
        if action.rew is not None:
            action.step.reward(action.rew)

    def update_action_reward(self, action: RL4SysAction, reward: Any) -> None:
        """As ``action.update_reward``."""
        action.update_reward(reward)

    def mark_end_of_trajectory(
        self, traj: RL4SysTrajectory, action: RL4SysAction, *, truncated: bool = False, final_obs: Any = None
    ) -> None:
        """The trajectory is over: it came to its end, unless ``truncated``, which RL4Sys cannot say.

        Raises:
            InvalidArgument: nothing was added to it, or a truncated one has no ``final_obs``.
        """
        action.done = True
        self.agent.end(
            terminated=not truncated,
            truncated=truncated,
            final_obs=None if final_obs is None else np.asarray(final_obs),
            episode=traj.name,
        )
        traj.completed = True

    def close(self) -> None:
        """Send what there is, and leave. Raises Undelivered."""
        self.agent.close()


def settings_of(told: Mapping[str, Any], agents: int = 1) -> tuple[dict[str, Any], list[str]]:
    """Attributes of ``AgentConfig`` for an RL4Sys configuration, and its keys that mean nothing here.

    Args:
        agents: how many share the run; with ``traj_per_epoch`` they bound ``batch_size``, as there.

    Raises:
        InvalidArgument: names every key at fault.
    """
    wrong: dict[str, str] = {}
    for name in ("client_id", "algorithm_name"):
        if not told.get(name):
            wrong[name] = "missing; a name is needed"
    algorithm = _ALGORITHMS.get(str(told.get("algorithm_name", "")))
    if told.get("algorithm_name") and algorithm is None:
        wrong["algorithm_name"] = f"'{told['algorithm_name']}' given; {', '.join(_ALGORITHMS)} are accepted"
    if wrong or algorithm is None:
        raise InvalidArgument("; ".join(f"{name}: {text}" for name, text in wrong.items()), wrong)
    names = dict(_ON_POLICY) if algorithm == "ppo" else {**_OFF_POLICY, **_OF_ONE.get(algorithm, {})}
    parameters = dict(told.get("algorithm_parameters", {}))
    hyperparameters, settings, ignored = _mapped(parameters, names)
    if algorithm == "ppo":
        _finish_ppo(parameters, hyperparameters, ignored, agents)
    known = {"client_id", "algorithm_name", "algorithm_parameters", "train_server_address", "act_limit", "type"}
    ignored += sorted(set(told) - known)
    expected = "onpolicy" if algorithm == "ppo" else "offpolicy"
    if told.get("type") not in (None, expected):
        raise InvalidArgument.of("type", f"'{told['type']}' given; {algorithm} is {expected}")
    settings = {
        "address": told.get("train_server_address", "127.0.0.1:50051"),
        "experiment_id": told["client_id"],
        "agent_id": f"{socket.gethostname()}-{os.getpid()}-{next(_numbers)}",
        "algorithm": algorithm,
        "total_timesteps": _NEVER,
        "hyperparameters": hyperparameters,
        **settings,
    }
    return settings, ignored


def spaces_in(told: Mapping[str, Any]) -> tuple[AnySpace, AnySpace]:
    """Flat float32 observations of ``input_size``; ``act_dim`` choices, or as many numbers up to ``act_limit``.

    Raises:
        InvalidArgument: a size is missing.
    """
    parameters = told.get("algorithm_parameters", {})
    for name in ("input_size", "act_dim"):
        if not isinstance(parameters.get(name), int) or parameters[name] < 1:
            given = f"{parameters.get(name)!r} given; a whole number is needed"
            raise InvalidArgument.of(f"algorithm_parameters.{name}", given)
    observation = spaces.Box(-np.inf, np.inf, (parameters["input_size"],), np.float32)
    numbers = told.get("algorithm_name") in {"PPO_Continuous", "SAC", "TD3", "DDPG"}
    if not numbers and parameters.get("discrete") is not False:
        return observation, spaces.Discrete(parameters["act_dim"])
    limit = float(told.get("act_limit", 1.0))
    return observation, spaces.Box(-limit, limit, (parameters["act_dim"],), np.float32)


def _mapped(parameters: _Values, names: Mapping[str, str]) -> tuple[_Values, _Values, list[str]]:
    """Hyperparameters, settings of the agent, and keys without a meaning. ``null`` is what is not said."""
    hyperparameters: _Values = {}
    settings: _Values = {}
    ignored: list[str] = []
    for key, value in parameters.items():
        if key in names or key in _OURS:
            into, name = (hyperparameters, names[key]) if key in names else (settings, _OURS[key])
            if value is not None:
                into[name] = value
        elif key not in _SPACES:
            ignored.append(f"algorithm_parameters.{key}")
    return hyperparameters, settings, ignored


def _finish_ppo(parameters: _Values, hyperparameters: _Values, ignored: list[str], agents: int) -> None:
    pi, vf = parameters.get("pi_lr"), parameters.get("vf_lr")
    if pi and vf:
        ignored.remove("algorithm_parameters.vf_lr")
        if vf != pi:
            hyperparameters["policy_kwargs"] = {"vf_lr_factor": vf / pi}
    if parameters.get("train_v_iters") == parameters.get("train_pi_iters"):
        ignored[:] = [key for key in ignored if key != "algorithm_parameters.train_v_iters"]
    rollout = hyperparameters.get("n_steps", 2048) * agents
    if hyperparameters.get("batch_size", 0) > rollout:
        hyperparameters["batch_size"] = rollout  # its minibatches end with the rollout, too


def _read(path: str | Path) -> dict[str, Any]:
    try:
        told = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidArgument.of(str(path), str(error)) from error
    if not isinstance(told, dict):
        raise InvalidArgument.of(str(path), "no JSON object")
    return told
