"""Inference as a server, for any function: one program registers functions, others call them by name.

from auxilium_rl.functions import InferenceClient, InferenceServer, Tensor

server = InferenceServer()
server.register("double", lambda x: 2 * x, signature={"x": Tensor((None,), "float32")})
with InferenceClient(f"127.0.0.1:{server.start()}") as client:
    client.call("double", x=numpy.ones(3, numpy.float32))

Stores of what actors send (see ``trainer``): ``TrajectoryStore`` with windows and futures, ``ReplayStore``.
"""

from auxilium_rl.functions.client import CallError, CallTimeout, InferenceClient
from auxilium_rl.functions.replay import ReplayStore
from auxilium_rl.functions.ring import NotEnoughSteps
from auxilium_rl.functions.samplers import Sampler, future, next_step, now, sequence
from auxilium_rl.functions.server import InferenceServer
from auxilium_rl.functions.signature import Tensor
from auxilium_rl.functions.step_fields import InvalidStep
from auxilium_rl.functions.store_files import DamagedStore
from auxilium_rl.functions.trajectories import TrajectoryStore

__all__ = [
    "CallError",
    "CallTimeout",
    "DamagedStore",
    "InferenceClient",
    "InferenceServer",
    "InvalidStep",
    "NotEnoughSteps",
    "ReplayStore",
    "Sampler",
    "Tensor",
    "TrajectoryStore",
    "future",
    "next_step",
    "now",
    "sequence",
]
