"""A multilayer perceptron computed by hand: the kernels of autograd, in its order, without its bookkeeping."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

__all__ = ["HandNetwork", "Layer", "log_softmax", "sample"]

_tanh_backward = torch.ops.aten.tanh_backward.default
_relu_backward = torch.ops.aten.threshold_backward.default


@dataclass(frozen=True)
class Layer:
    """One linear layer; all tensors are aliases of the parameter's memory and know nothing of autograd."""

    weight: torch.Tensor
    transposed: torch.Tensor
    bias: torch.Tensor
    weight_gradient: torch.Tensor | None
    bias_gradient: torch.Tensor | None


class HandNetwork:
    """Linear layers with an activation between them, forward and backward.

    Args:
        modules: as in ``nn.Sequential``; activations must be all ``nn.Tanh`` or all ``nn.ReLU``. A parameter's ``grad``
            must be what ``backward`` shall write to; a network whose parameters have none cannot go backward.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        modules = list(modules)
        self._tanh = any(isinstance(module, nn.Tanh) for module in modules)
        self._layers = [_layer(module) for module in modules if isinstance(module, nn.Linear)]
        self._hidden, self._last = self._layers[:-1], self._layers[-1]

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """The output for inputs ``(n, dim)``."""
        for layer in self._hidden:
            inputs = torch.addmm(layer.bias, inputs, layer.transposed)
            inputs = inputs.tanh_() if self._tanh else inputs.relu_()
        return torch.addmm(self._last.bias, inputs, self._last.transposed)

    def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The output, and what ``backward`` needs: the input of every layer."""
        kept = [inputs]
        for layer in self._hidden:
            inputs = torch.addmm(layer.bias, inputs, layer.transposed)
            kept.append(inputs.tanh_() if self._tanh else inputs.relu_())
        return torch.addmm(self._last.bias, kept[-1], self._last.transposed), kept

    def backward(self, gradient: torch.Tensor, kept: list[torch.Tensor]) -> None:
        """Write the gradients of all parameters, given that of the output."""
        for index in range(len(self._layers) - 1, -1, -1):
            layer, inputs = self._layers[index], kept[index]
            torch.sum(gradient, 0, out=layer.bias_gradient)
            torch.mm(gradient.t(), inputs, out=layer.weight_gradient)
            if index:
                gradient = gradient.mm(layer.weight)
                gradient = _tanh_backward(gradient, inputs) if self._tanh else _relu_backward(gradient, inputs, 0)


def _layer(module: nn.Linear) -> Layer:
    weight, bias = module.weight.detach(), module.bias.detach()
    return Layer(weight, weight.t(), bias, module.weight.grad, module.bias.grad)


def log_softmax(scores: torch.Tensor) -> torch.Tensor:
    """As ``Categorical`` normalises its logits; ``torch.log_softmax`` rounds otherwise."""
    return scores - scores.logsumexp(-1, keepdim=True)


def sample(logits: torch.Tensor) -> torch.Tensor:
    """As ``Categorical(logits).sample()``, shape ``(n, 1)``, drawing the same random numbers.

    ``torch.multinomial`` does just this after its checks, which take longer than the drawing; whoever calls must look
    for not-a-number itself.
    """
    probabilities = torch.softmax(logits, -1)
    noise = torch.empty_like(probabilities).exponential_(1)
    return torch.div(probabilities, noise, out=noise).argmax(-1, keepdim=True)
