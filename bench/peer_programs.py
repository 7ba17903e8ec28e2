"""Other protocols on the same trivial environment. Runs in the peers' own Python environment: build/peers.

``python bench/peer_programs.py serve NAME PORT`` and ``python bench/peer_programs.py measure NAME PORT SECONDS``, which
prints the median round trip in seconds for every line on standard input.
"""

from __future__ import annotations

import os
import pickle
import statistics
import sys
import time
from collections.abc import Callable
from concurrent import futures
from typing import Any

import numpy as np


def serve_rlmesh(port: int) -> None:
    import gymnasium
    from rlmesh import EnvServer

    class Trivial(gymnasium.Env):  # type: ignore[type-arg]
        observation_space = gymnasium.spaces.Box(-1, 1, (4,), np.float32)
        action_space = gymnasium.spaces.Discrete(2)

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            return np.zeros(4, np.float32), {}

        def step(self, action: Any) -> Any:
            return np.zeros(4, np.float32), 0.0, False, False, {}

    EnvServer(Trivial(), f"127.0.0.1:{port}").serve()


def rlmesh_step(port: int) -> Callable[[], Any]:
    from rlmesh.numpy import RemoteEnv

    env = RemoteEnv(f"127.0.0.1:{port}")
    env.reset(seed=0)
    return lambda: env.step(0)


def serve_dm_env_rpc(port: int) -> None:
    import grpc
    from dm_env_rpc.v1 import dm_env_rpc_pb2 as rpc
    from dm_env_rpc.v1 import dm_env_rpc_pb2_grpc, tensor_utils

    specs = rpc.ActionObservationSpecs(
        actions={1: rpc.TensorSpec(name="paddle", dtype=rpc.INT32)},
        observations={
            1: rpc.TensorSpec(name="board", shape=[4], dtype=rpc.FLOAT),
            2: rpc.TensorSpec(name="reward", dtype=rpc.FLOAT),
        },
    )
    specs.actions[1].min.int32s.array[:] = [0]
    specs.actions[1].max.int32s.array[:] = [1]

    class Service(dm_env_rpc_pb2_grpc.EnvironmentServicer):
        def Process(self, requests: Any, context: Any) -> Any:
            for request in requests:
                answer = rpc.EnvironmentResponse()
                kind = request.WhichOneof("payload")
                if kind == "create_world":
                    answer.create_world.world_name = "trivial"
                elif kind == "join_world":
                    answer.join_world.specs.CopyFrom(specs)
                elif kind == "reset":
                    answer.reset.specs.CopyFrom(specs)
                elif kind == "step":
                    answer.step.state = rpc.EnvironmentStateType.RUNNING
                    answer.step.observations[1].CopyFrom(tensor_utils.pack_tensor(np.zeros(4, np.float32)))
                    answer.step.observations[2].CopyFrom(tensor_utils.pack_tensor(np.float32(0)))
                yield answer

    server = grpc.server(futures.ThreadPoolExecutor(4))
    dm_env_rpc_pb2_grpc.add_EnvironmentServicer_to_server(Service(), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    server.wait_for_termination()


def dm_env_rpc_step(port: int) -> Callable[[], Any]:
    import grpc
    from dm_env_rpc.v1 import connection, dm_env_adaptor

    channel = grpc.insecure_channel(f"127.0.0.1:{port}")
    env, _ = dm_env_adaptor.create_and_join_world(connection.Connection(channel), {}, {})
    env.reset()
    return lambda: env.step({"paddle": np.int32(0)})


def serve_openenv(port: int) -> None:
    import uvicorn
    from openenv.core.env_server.http_server import create_fastapi_app
    from openenv.core.env_server.interfaces import Environment
    from openenv.core.env_server.types import Action, Observation, State

    class Move(Action):
        index: int

    class Seen(Observation):
        values: list[float]

    class Trivial(Environment):  # type: ignore[type-arg]
        def reset(self, *arguments: Any, **more: Any) -> Seen:
            return Seen(values=[0.0] * 4, reward=0.0)

        def step(self, action: Move, *arguments: Any, **more: Any) -> Seen:
            return Seen(values=[0.0] * 4, reward=0.0)

        @property
        def state(self) -> State:
            return State()

    uvicorn.run(create_fastapi_app(Trivial, Move, Seen), host="127.0.0.1", port=port, log_level="error")


def openenv_step(port: int) -> Callable[[], Any]:
    from openenv.core.generic_client import GenericEnvClient

    env = GenericEnvClient(base_url=f"ws://127.0.0.1:{port}").sync()
    env.__enter__()
    env.reset()
    return lambda: env.step({"index": 0})


def serve_zeromq(port: int) -> None:
    """A policy behind a ZeroMQ socket, pickled and compressed, as agentlace has it; the graph is $POLICY_ONNX."""
    import lz4.frame
    import onnxruntime
    import zmq

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(os.environ["POLICY_ONNX"], options)
    socket = zmq.Context().socket(zmq.REP)
    socket.bind(f"tcp://127.0.0.1:{port}")
    while True:
        request = pickle.loads(lz4.frame.decompress(socket.recv()))
        (action,) = session.run(["action"], {"observation": request["payload"]["observation"][None]})
        answer = {"success": True, "payload": {"action": int(action[0])}}
        socket.send(lz4.frame.compress(pickle.dumps(answer)))


def zeromq_act(port: int) -> Callable[[], Any]:
    import lz4.frame
    import zmq

    socket = zmq.Context().socket(zmq.REQ)
    socket.connect(f"tcp://127.0.0.1:{port}")
    observation = np.array([0.1, 0.2, 0.3, 0.4], np.float32)

    def act() -> Any:
        request = {"type": "act", "payload": {"observation": observation}}
        socket.send(lz4.frame.compress(pickle.dumps(request)))
        return pickle.loads(lz4.frame.decompress(socket.recv()))["payload"]["action"]

    return act


SERVERS = {
    "rlmesh": serve_rlmesh,
    "dm_env_rpc": serve_dm_env_rpc,
    "openenv": serve_openenv,
    "zeromq": serve_zeromq,
}
CLIENTS = {
    "rlmesh": rlmesh_step,
    "dm_env_rpc": dm_env_rpc_step,
    "openenv": openenv_step,
    "zeromq": zeromq_act,
}


def _connected(name: str, port: int) -> Callable[[], Any]:
    """The server needs a moment to come up."""
    end = time.monotonic() + 60
    while True:
        try:
            return CLIENTS[name](port)
        except Exception:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


def main() -> None:
    verb, name, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
    if verb == "serve":
        SERVERS[name](port)
        return
    step = _connected(name, port)
    print("ready", flush=True)
    for _ in sys.stdin:
        times, end = [], time.perf_counter() + float(sys.argv[4])
        while (began := time.perf_counter()) < end:
            step()
            times.append(time.perf_counter() - began)
        print(statistics.median(times), flush=True)


if __name__ == "__main__":
    main()
