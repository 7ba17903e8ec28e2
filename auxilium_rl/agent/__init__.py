"""An agent inside of a system: it acts here, and a server learns from what it experienced."""

from auxilium_rl.agent.agent import Agent
from auxilium_rl.agent.config import AgentConfig
from auxilium_rl.agent.episode import RewardTooLate, Step
from auxilium_rl.agent.outbox import Undelivered

__all__ = ["Agent", "AgentConfig", "RewardTooLate", "Step", "Undelivered"]
