"""Inference as a server, for any function: one program registers functions, others call them by name.

from auxilium_rl.functions import InferenceClient, InferenceServer, Tensor

server = InferenceServer()
server.register("double", lambda x: 2 * x, signature={"x": Tensor((None,), "float32")})
with InferenceClient(f"127.0.0.1:{server.start()}") as client:
    client.call("double", x=numpy.ones(3, numpy.float32))
"""

from auxilium_rl.functions.client import CallError, CallTimeout, InferenceClient
from auxilium_rl.functions.server import InferenceServer
from auxilium_rl.functions.signature import Tensor

__all__ = ["CallError", "CallTimeout", "InferenceClient", "InferenceServer", "Tensor"]
