"""Checks that go on after the first fault, so that a caller hears of every field at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from auxilium_rl.core.errors import FieldViolation, InvalidRequest

__all__ = ["Violations"]


class Violations:
    """Runs checks one after another and keeps what they found."""

    def __init__(self) -> None:
        self.found: list[FieldViolation] = []

    def check(self, action: Callable[[], Any]) -> Any:
        """The result of ``action``; None when it was refused."""
        try:
            return action()
        except InvalidRequest as refused:
            self.found.extend(refused.violations)
            return None

    def require(self, ok: bool, name: str, description: str) -> None:
        """Note a violation unless ``ok``."""
        if not ok:
            self.found.append(FieldViolation(name, description))

    def settle(self) -> None:
        """Raise what was found."""
        if self.found:
            raise InvalidRequest(*self.found)
