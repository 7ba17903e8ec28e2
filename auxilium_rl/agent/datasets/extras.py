"""Libraries that only some exports need."""

from __future__ import annotations

import importlib
from typing import Any

from auxilium_rl.client.errors import ClientError

__all__ = ["needed"]


def needed(extra: str, what: str, *modules: str) -> list[Any]:
    """The modules that a format needs. Raises ClientError with what to install where one is missing."""
    try:
        return [importlib.import_module(name) for name in modules]
    except ImportError as missing:
        library = missing.name or modules[0]
        raise ClientError(f"{what} needs {library}: pip install 'auxilium-rl[{extra}]'") from missing
