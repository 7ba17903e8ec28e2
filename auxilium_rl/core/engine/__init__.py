"""Makes training faster and keeps every bit of the result. Only workers import this."""

from auxilium_rl.core.engine.accelerate import EngineReport, accelerate

__all__ = ["EngineReport", "accelerate"]
