"""A value function that learns at a pace of its own. Only workers import this.

Stable-Baselines3 has one learning rate for a whole actor-critic policy; Spinning Up and what was built on it have two.
The optimizer has two groups of parameters here, but is saved as Stable-Baselines3's own, with one, so that it loads
what we save.
"""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm

__all__ = ["VF_LR_FACTOR", "PacedGroups", "pace_value_function"]

VF_LR_FACTOR = "vf_lr_factor"
"""Key of ``policy_kwargs``: the value function's learning rate, in units of the policy's."""
_FACTOR, _OPTIMIZER = "lr_factor", "policy.optimizer"


class PacedGroups(BaseAlgorithm):
    """Mixed in by ``pace_value_function``: each group of parameters has its share of the learning rate."""

    policy: Any

    def _update_learning_rate(self, optimizers: Any) -> None:
        super()._update_learning_rate(optimizers)
        for optimizer in optimizers if isinstance(optimizers, list) else [optimizers]:
            for group in optimizer.param_groups:
                group["lr"] *= group[_FACTOR]

    def get_parameters(self) -> dict[str, Any]:
        """As SB3's, the optimizer with one group."""
        parameters = super().get_parameters()
        state = parameters[_OPTIMIZER]
        first = {name: value for name, value in state["param_groups"][0].items() if name not in ("params", _FACTOR)}
        order = _order(self.policy)
        parameters[_OPTIMIZER] = {
            "state": {order[number]: value for number, value in state["state"].items()},
            "param_groups": [{**first, "params": sorted(order)}],
        }
        return parameters

    def set_parameters(self, load_path_or_dict: Any, exact_match: bool = True, device: Any = "auto") -> None:
        """As SB3's; an optimizer with one group is parted."""
        given = load_path_or_dict
        if isinstance(given, dict) and len(given.get(_OPTIMIZER, {}).get("param_groups", ())) == 1:
            place = {theirs: ours for ours, theirs in enumerate(_order(self.policy))}
            state = {place[number]: value for number, value in given[_OPTIMIZER]["state"].items()}
            groups = self.policy.optimizer.state_dict()["param_groups"]
            given = {**given, _OPTIMIZER: {"state": state, "param_groups": groups}}
        super().set_parameters(given, exact_match, device)


def pace_value_function(model: Any, factor: float) -> None:
    """Give an on-policy model's value function ``factor`` times the learning rate of its policy."""
    policy = model.policy
    extractor = policy.vf_features_extractor
    shared = extractor is policy.pi_features_extractor
    modules = [policy.mlp_extractor.value_net, policy.value_net, *([] if shared else [extractor])]
    values = {id(parameter) for module in modules for parameter in module.parameters()}
    (group,) = policy.optimizer.param_groups
    options = {name: value for name, value in group.items() if name != "params"}
    groups = [
        {
            **options,
            "params": [one for one in group["params"] if (id(one) in values) is ours],
            _FACTOR: share,
            "lr": options["lr"] * share,
        }
        for ours, share in ((False, 1.0), (True, factor))
    ]
    kind: Any = type(policy.optimizer)
    policy.optimizer = kind(groups, lr=options["lr"])
    model.__class__ = type(type(model).__name__, (PacedGroups, type(model)), {})


def _order(policy: Any) -> list[int]:
    """Which of the policy's parameters each of the optimizer's is, group after group."""
    numbers = {id(parameter): number for number, parameter in enumerate(policy.parameters())}
    groups: list[dict[str, Any]] = policy.optimizer.param_groups
    return [numbers[id(parameter)] for group in groups for parameter in group["params"]]
