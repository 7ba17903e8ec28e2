"""All parameters of an optimizer in one tensor, so that one step takes a handful of calls for any number of layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

__all__ = ["FlatAdam", "FlatOptimizer", "FlatRMSprop", "can_flatten", "flatten"]

# Every parameter begins where the allocator would have put it: matrix kernels may choose by alignment.
_ALIGNMENT = 64 // 4


class FlatOptimizer(torch.optim.Optimizer):
    """What the flat optimizers share: the layout, clipping, and the way to and from stock state dictionaries.

    Instances are made by ``flatten``, from a stock optimizer. Between calls ``self.state`` is stale by design: the
    truth is in the flat tensors, and ``state_dict`` writes it back.
    """

    names: tuple[str, ...] = ()

    def adopt(self) -> None:
        """Move the parameters into one tensor and lay out gradients and state like it."""
        self.parts: list[nn.Parameter] = list(self.param_groups[0]["params"])
        self.offsets: list[int] = []
        size = 0
        for part in self.parts:
            self.offsets.append(size)
            size += -(-part.numel() // _ALIGNMENT) * _ALIGNMENT
        self.values, self.gradients, self.scratch = torch.zeros(size), torch.zeros(size), torch.zeros(size)
        self.moments = {name: torch.zeros(size) for name in self.names}
        for part, view, gradient in zip(self.parts, self.views(self.values), self.views(self.gradients), strict=True):
            view.copy_(part.data)
            part.data = view
            part.grad = gradient
        self.gradient_views = self.views(self.gradients)
        self._absorb()

    def views(self, flat: torch.Tensor) -> list[torch.Tensor]:
        """Windows of a tensor of this layout, each shaped like its parameter."""
        places = zip(self.offsets, self.parts, strict=True)
        return [flat[start : start + part.numel()].view(part.shape) for start, part in places]

    def clip(self, max_norm: float) -> None:
        """As ``clip_grad_norm_``: the norm of the parameters' norms, in the same order of additions."""
        norms = torch._foreach_norm(self.gradient_views, 2.0)
        total = torch.linalg.vector_norm(torch.stack(norms), 2.0)
        self.gradients.mul_(torch.clamp(max_norm / (total + 1e-6), max=1.0))

    def update(self) -> None:
        """One step with the gradients that lie in ``self.gradients``."""
        raise NotImplementedError

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step with ``parameter.grad``, wherever it lies; the training loops call ``update``."""
        if closure is not None:
            raise NotImplementedError("a flat optimizer takes no closure")
        for part, view in zip(self.parts, self.gradient_views, strict=True):
            if part.grad is None:
                raise RuntimeError("a flat optimizer needs the gradients of all parameters")
            view.copy_(part.grad)
        self.update()

    def state_dict(self) -> dict[str, Any]:
        """A snapshot in the layout of the stock optimizer; shares no memory with this one."""
        self._publish()
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the state of a stock or a flat optimizer."""
        super().load_state_dict(state_dict)
        self._absorb()

    def __getstate__(self) -> dict[str, Any]:
        self._publish()
        return super().__getstate__()

    def __reduce_ex__(self, protocol: Any) -> Any:
        # A copy has parameters of its own, outside of the flat tensor: it goes on as the stock optimizer.
        stock = type(self).__mro__[2]
        return (stock.__new__, (stock,), self.__getstate__())

    def _absorb(self) -> None:
        for name, flat in self.moments.items():
            for part, view in zip(self.parts, self.views(flat), strict=True):
                view.copy_(self.state[part][name]) if part in self.state else view.zero_()
        states = [self.state[part] for part in self.parts if part in self.state]
        self.steps = float(states[0]["step"]) if states else 0.0

    def _publish(self) -> None:
        self.state.clear()
        if not self.steps:
            return
        views = {name: self.views(flat) for name, flat in self.moments.items()}
        for index, part in enumerate(self.parts):
            own = {name: view[index].clone() for name, view in views.items()}
            self.state[part] = {"step": torch.tensor(self.steps, dtype=torch.float32), **own}


class FlatAdam(FlatOptimizer, torch.optim.Adam):
    """``torch.optim.Adam`` as it computes one tensor: not amsgrad, not maximizing, without weight decay."""

    names = ("exp_avg", "exp_avg_sq")

    def update(self) -> None:
        """One step with the gradients that lie in ``self.gradients``."""
        group, gradients, scratch = self.param_groups[0], self.gradients, self.scratch
        (beta1, beta2), average, squares = group["betas"], self.moments["exp_avg"], self.moments["exp_avg_sq"]
        self.steps += 1
        average.lerp_(gradients, 1 - beta1)
        squares.mul_(beta2).addcmul_(gradients, gradients, value=1 - beta2)
        size = group["lr"] / (1 - beta1**self.steps)
        torch.sqrt(squares, out=scratch).div_((1 - beta2**self.steps) ** 0.5).add_(group["eps"])
        self.values.addcdiv_(average, scratch, value=-size)


class FlatRMSprop(FlatOptimizer, torch.optim.RMSprop):
    """``torch.optim.RMSprop`` as it computes one tensor: not centered, without momentum and weight decay."""

    names = ("square_avg",)

    def update(self) -> None:
        """One step with the gradients that lie in ``self.gradients``."""
        group, gradients, squares = self.param_groups[0], self.gradients, self.moments["square_avg"]
        self.steps += 1
        squares.mul_(group["alpha"]).addcmul_(gradients, gradients, value=1 - group["alpha"])
        torch.sqrt(squares, out=self.scratch).add_(group["eps"])
        self.values.addcdiv_(gradients, self.scratch, value=-group["lr"])


_FLAT: dict[type[torch.optim.Optimizer], type[FlatOptimizer]] = {
    torch.optim.Adam: FlatAdam,
    torch.optim.RMSprop: FlatRMSprop,
}
_PLAIN = ("weight_decay", "amsgrad", "maximize", "momentum", "centered", "foreach", "fused", "capturable")


def can_flatten(optimizer: torch.optim.Optimizer) -> bool:
    """Whether ``flatten`` has the arithmetic of this optimizer and its options."""
    groups = optimizer.param_groups
    plain = all(not group.get(option) for group in groups for option in (*_PLAIN, "differentiable"))
    return type(optimizer) in _FLAT and len(groups) == 1 and plain


def flatten(optimizer: torch.optim.Optimizer) -> FlatOptimizer:
    """Turn a stock optimizer into its flat kind, in place, with the state that it has."""
    optimizer.__class__ = _FLAT[type(optimizer)]
    assert isinstance(optimizer, FlatOptimizer)
    optimizer.adopt()
    return optimizer
