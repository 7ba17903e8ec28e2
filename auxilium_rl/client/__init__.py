"""The Python SDK: start runs, watch them, act with their policies.

from auxilium_rl.client import Client

with Client("127.0.0.1:50051") as client:
    run = client.train("ppo", env="gym:CartPole-v1", total_timesteps=50_000)
    run.wait(progress=True)
    run.act([0.0, 0.0, 0.0, 0.0])
"""

from auxilium_rl.client.acting import PolicyEpisode
from auxilium_rl.client.agents import Agents, AgentStatus, Hindsight
from auxilium_rl.client.client import Client
from auxilium_rl.client.episode import Episode
from auxilium_rl.client.errors import ActError, ClientError, InvalidArgument, NotFound, RunFailed, ServerUnavailable
from auxilium_rl.client.policy import Policy
from auxilium_rl.client.policy_values import Evaluation, PolicyInfo, PolicyVersion
from auxilium_rl.client.run import Run
from auxilium_rl.client.values import (
    Algorithm,
    AttachedSimulator,
    Checkpoint,
    Garbage,
    Hyperparameter,
    Metric,
    RunEvent,
    RunStatus,
)

__all__ = [
    "ActError",
    "AgentStatus",
    "Agents",
    "Algorithm",
    "AttachedSimulator",
    "Checkpoint",
    "Client",
    "ClientError",
    "Episode",
    "Evaluation",
    "Garbage",
    "Hindsight",
    "Hyperparameter",
    "InvalidArgument",
    "Metric",
    "NotFound",
    "Policy",
    "PolicyEpisode",
    "PolicyInfo",
    "PolicyVersion",
    "Run",
    "RunEvent",
    "RunFailed",
    "RunStatus",
    "ServerUnavailable",
]
