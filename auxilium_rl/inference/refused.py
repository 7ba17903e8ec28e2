"""Why a policy does not act."""

from __future__ import annotations

__all__ = ["Refused", "Unfit"]


class Refused(ValueError):
    """What was asked cannot be done: the field at fault, what was given and what is accepted."""

    def __init__(self, field: str, description: str) -> None:
        super().__init__(f"{field}: {description}")
        self.field, self.description = field, description


class Unfit(ValueError):
    """The files of a policy are not such, or it does not act as it was trained to."""
