"""Auxilium RL: reinforcement-learning training as a service."""

__version__ = "0.1.0"
