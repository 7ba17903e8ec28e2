"""The hyperparameters of every algorithm: name, type, default, accepted values, meaning.

Names and defaults are those of Stable-Baselines3 and sb3-contrib; a test compares them with the installed versions, so
that the server need not import them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from auxilium_rl.core.algorithm_info import AlgorithmInfo, HyperparameterInfo

__all__ = ["ALGORITHMS", "NOT_SETTABLE"]

NOT_SETTABLE: Mapping[str, str] = {
    "rollout_buffer_class": "it would name code",
    "rollout_buffer_kwargs": "it belongs to rollout_buffer_class",
    "replay_buffer_class": "it would name code",
    "replay_buffer_kwargs": "it belongs to replay_buffer_class",
    "tensorboard_log": "every run's event files lie under LOGS_DIR",
    "verbose": "LOG_LEVEL decides what is logged",
    "device": "workers train on the CPU",
    "policy": "it is a field of the run: policy",
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
_USE_SDE = HyperparameterInfo(
    "use_sde", "bool", False, "Explore by noise that depends on the state, for continuous actions."
)
_SDE_FREQ = _int("sde_sample_freq", -1, "Steps between two draws of that noise; -1: one a rollout.", low=-1)
_SDE = (_USE_SDE, _SDE_FREQ)
_TARGET_KL = HyperparameterInfo(
    "target_kl",
    "float",
    None,
    "An update ends early when the policy has moved this far; none: never.",
    0.0,
    _HUGE,
    above_low=True,
    optional=True,
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
    *_SDE,
    _TARGET_KL,
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
    *_SDE,
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

_MASKABLE_PPO = tuple(h for h in _PPO if h not in _SDE)

_RECURRENT_PPO = tuple(replace(h, default=128) if h.name in {"n_steps", "batch_size"} else h for h in _PPO)

_TRPO = (
    replace(_LEARNING_RATE, default=1e-3, meaning="Step size of the value function's optimizer."),
    _int("n_steps", 2048, "Steps of each lane between two updates."),
    _int("batch_size", 128, "Steps in a minibatch of the value function."),
    _GAMMA,
    _int("cg_max_steps", 15, "Most steps of conjugate gradients.", high=10_000),
    _float("cg_damping", 0.1, "Keeps the Hessian well conditioned.", 0.0),
    _float("line_search_shrinking_factor", 0.8, "Factor by which the line search shortens a step.", 0.0, 1.0),
    _int("line_search_max_iter", 10, "Most steps of the line search.", high=10_000),
    _int("n_critic_updates", 10, "Passes over the collected steps for the value function.", high=10_000),
    _GAE_LAMBDA,
    *_SDE,
    _NORMALIZE,
    replace(_TARGET_KL, default=0.01, optional=False, meaning="How far an update may move the policy."),
    _int("sub_sampling_factor", 1, "Every how many steps are used for the policy's update."),
    _STATS,
    _POLICY_KWARGS,
)

_QRDQN = tuple(
    {
        "learning_rate": replace(_LEARNING_RATE, default=5e-5),
        "exploration_fraction": replace(h, default=0.005),
        "exploration_final_eps": replace(h, default=0.01),
        "max_grad_norm": replace(h, default=None, optional=True),
    }.get(h.name, h)
    for h in _DQN
)

_ACTION_NOISE = HyperparameterInfo(
    "action_noise", "action_noise", None, "Noise added to actions to explore.", optional=True
)
_OFF_POLICY = (
    _LEARNING_RATE,
    _int("buffer_size", 1_000_000, "Transitions kept to learn from.", high=50_000_000),
    _int("learning_starts", 100, "Steps taken before learning begins.", low=0, high=1e9),
    _int("batch_size", 256, "Transitions in a minibatch."),
    _float("tau", 0.005, "Share of the new weights in the target networks at their update.", 0.0, 1.0),
    _GAMMA,
    HyperparameterInfo("train_freq", "train_freq", 1, "Steps between two updates.", 1, 1_000_000),
    _int("gradient_steps", 1, "Minibatches of an update; -1: as many as steps were taken.", low=-1),
    _ACTION_NOISE,
    HyperparameterInfo("optimize_memory_usage", "bool", False, "Keep next observations only once."),
    _int("n_steps", 1, "Steps of reward that a target sums up.", high=1000),
)
_ENTROPY = (
    HyperparameterInfo("ent_coef", "ent_coef", "auto", "Weight of the entropy in the loss.", 0.0, _HUGE),
    _int("target_update_interval", 1, "Updates between two updates of the target networks.", high=1e9),
    HyperparameterInfo("target_entropy", "target_entropy", "auto", "The entropy that a learned ent_coef aims at."),
)
_SDE_WARMUP = HyperparameterInfo("use_sde_at_warmup", "bool", False, "That noise before learning begins too.")

_SAC = (*_OFF_POLICY, *_ENTROPY, *_SDE, _SDE_WARMUP, _STATS, _POLICY_KWARGS)
_TQC = (
    *_OFF_POLICY,
    *_ENTROPY,
    _int("top_quantiles_to_drop_per_net", 2, "Highest quantiles of each critic that a target leaves out.", low=0),
    *_SDE,
    _SDE_WARMUP,
    _STATS,
    _POLICY_KWARGS,
)
_SLOWER = (replace(_LEARNING_RATE, default=1e-3), *_OFF_POLICY[1:])
_TD3 = (
    *_SLOWER,
    _int("policy_delay", 2, "Updates of the critics for each of the policy."),
    _float("target_policy_noise", 0.2, "Deviation of the noise that smooths target actions.", 0.0),
    _float("target_noise_clip", 0.5, "Largest such noise.", 0.0),
    _STATS,
    _POLICY_KWARGS,
)
_DDPG = (*_SLOWER, _POLICY_KWARGS)

_ANY = ("Box", "Discrete", "MultiDiscrete", "MultiBinary")
_NETS = ("net_arch", "activation_fn", "optimizer_kwargs", "normalize_images")
_ACTOR_CRITIC = (*_NETS, "ortho_init", "log_std_init", "share_features_extractor")
_PACED = "vf_lr_factor"
_LSTM = ("lstm_hidden_size", "n_lstm_layers", "shared_lstm", "enable_critic_lstm")
_CRITICS = (*_NETS, "n_critics", "share_features_extractor")

ALGORITHMS: Mapping[str, AlgorithmInfo] = {
    info.name: info
    for info in (
        AlgorithmInfo("ppo", "Proximal Policy Optimization", _PPO, _ANY, (*_ACTOR_CRITIC, _PACED), on_policy=True),
        AlgorithmInfo("a2c", "Advantage Actor-Critic", _A2C, _ANY, (*_ACTOR_CRITIC, _PACED), on_policy=True),
        AlgorithmInfo("dqn", "Deep Q-Network", _DQN, ("Discrete",), _NETS, on_policy=False),
        AlgorithmInfo("sac", "Soft Actor-Critic", _SAC, ("Box",), (*_CRITICS, "log_std_init"), on_policy=False),
        AlgorithmInfo("td3", "Twin Delayed DDPG", _TD3, ("Box",), _CRITICS, on_policy=False),
        AlgorithmInfo("ddpg", "Deep Deterministic Policy Gradient", _DDPG, ("Box",), _CRITICS, on_policy=False),
        AlgorithmInfo(
            "maskable_ppo",
            "PPO with action masks",
            _MASKABLE_PPO,
            _ANY[1:],
            (*_NETS, "ortho_init", "share_features_extractor", _PACED),
            on_policy=True,
            masks=True,
        ),
        AlgorithmInfo(
            "recurrent_ppo", "PPO with an LSTM", _RECURRENT_PPO, _ANY, (*_ACTOR_CRITIC, *_LSTM), on_policy=True
        ),
        AlgorithmInfo("qrdqn", "Quantile Regression DQN", _QRDQN, ("Discrete",), (*_NETS, "n_quantiles"), False),
        AlgorithmInfo(
            "tqc", "Truncated Quantile Critics", _TQC, ("Box",), (*_CRITICS, "log_std_init", "n_quantiles"), False
        ),
        AlgorithmInfo("trpo", "Trust Region Policy Optimization", _TRPO, _ANY, _ACTOR_CRITIC, on_policy=True),
    )
}
"""Every algorithm by name."""
