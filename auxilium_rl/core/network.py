"""What a small network computes, in words that programs without ONNX follow. Only workers import this."""

from __future__ import annotations

from typing import Any

from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import nn

from auxilium_rl.core.actor_graph import ActorGraph
from auxilium_rl.core.sb3_arguments import ACTIVATIONS

__all__ = ["network_of"]

_NAMES = {kind: name for name, kind in ACTIVATIONS.items()}


def network_of(actor: ActorGraph) -> dict[str, Any] | None:
    """The layers of a policy that is nothing but linear layers; None for others.

    ``layers``: names of weight ``(out, in)`` and bias ``(out,)`` of each, and the activation after it; ``features``:
    ``flat`` or ``one_hot`` numbers go in; ``log_std``: of a Gaussian, a tensor, or a layer that takes what the last
    layer takes; ``finish``: what makes an action of what comes out: ``choose`` (the highest), ``choose_each`` (of
    several), ``clip``, ``unscale`` (from -1 to 1) or ``tanh_unscale``; ``quantiles``: rows of them, whose mean counts.
    """
    layers = _layers(actor)
    features = _features(actor)
    if not layers or not features or actor.scaled or actor.state_shape is not None:
        return None
    told: dict[str, Any] = {"features": features, "layers": layers, "finish": actor.finish}
    if actor.distribution == "squashed_gaussian":
        told["log_std"] = {"weight": "spread.weight", "bias": "spread.bias"}
    elif actor.distribution == "gaussian":
        told["log_std"] = "constant_log_std"
    if actor.quantiles:
        told["quantiles"] = actor.quantiles
    return told


def _features(actor: ActorGraph) -> str:
    if not isinstance(actor.extractor, FlattenExtractor) or len(actor.leaves) != 1:
        return ""
    space = actor.leaves[0][1]
    if isinstance(space, spaces.Box):
        return "" if is_image_space(space) else "flat"
    return "one_hot" if isinstance(space, spaces.Discrete) else ""


def _layers(actor: ActorGraph) -> list[dict[str, str]]:
    layers: list[dict[str, str]] = []
    for name, module in (*_flat("latent", actor.latent), *_flat("head", actor.head)):
        if isinstance(module, nn.Linear):
            layers.append({"weight": f"{name}.weight", "bias": f"{name}.bias", "activation": "none"})
        elif type(module) in _NAMES and layers:
            layers[-1]["activation"] = _NAMES[type(module)]
        elif not isinstance(module, nn.Identity):
            return []
    return layers


def _flat(name: str, module: nn.Module) -> list[tuple[str, nn.Module]]:
    if isinstance(module, nn.Sequential):
        return [(f"{name}.{key}", child) for key, child in module.named_children()]
    return [(name, module)]
