"""Which generation of ``simulation.v2`` this program speaks."""

from __future__ import annotations

__all__ = ["GENERATION"]

GENERATION = "sim-v2"
