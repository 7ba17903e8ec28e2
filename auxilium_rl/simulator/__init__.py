"""For authors of simulators: put an environment behind the protocols, or dial out to a trainer with it.

from auxilium_rl.simulator import serve_env

with serve_env("CartPole-v1", lanes=8, address="127.0.0.1:50062", fast_lane="tcp://127.0.0.1:0") as server:
    server.wait()
"""

from auxilium_rl.simulator.actions import ActionClient, ActionServer
from auxilium_rl.simulator.attaching import AttachedEnv, AttachError, attach_env
from auxilium_rl.simulator.server import EnvironmentServer, serve_env

__all__ = [
    "ActionClient",
    "ActionServer",
    "AttachError",
    "AttachedEnv",
    "EnvironmentServer",
    "attach_env",
    "serve_env",
]
