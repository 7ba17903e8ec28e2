"""For those who do not wait for a simulator that went away."""

from __future__ import annotations

from collections.abc import Callable

from auxilium_rl.core.errors import EnvironmentLost

__all__ = ["Impatience"]


class Impatience:
    """A ``Patience`` that an evaluation has: none."""

    def waiting(self, reason: str) -> Callable[[], None]:
        """See ``Patience``."""
        raise EnvironmentLost(f"the simulator went away in the middle of the evaluation: {reason}")

    def resumed(self) -> None:
        """See ``Patience``."""

    def pause(self, seconds: float) -> None:
        """See ``Patience``."""
