"""The trainer's half of ``simulation.v2``."""
