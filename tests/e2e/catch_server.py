"""DeepMind's Catch behind dm_env_rpc: a ball falls through ten rows, a paddle moves left, right or not at all.

The specifications are those of the protocol's own example: ``board`` float32 (10, 5), ``reward``, ``paddle`` -1 to 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import numpy as np
from dm_env_rpc.v1 import dm_env_rpc_pb2 as rpc
from dm_env_rpc.v1 import dm_env_rpc_pb2_grpc, tensor_utils

ROWS, COLUMNS = 10, 5
BOARD, REWARD, PADDLE = 1, 2, 1


class Catch:
    """One game."""

    def __init__(self, random: np.random.Generator) -> None:
        self.ball = [0, int(random.integers(COLUMNS))]
        self.paddle = COLUMNS // 2

    def step(self, move: int) -> float | None:
        """The reward when the ball has arrived; None before."""
        self.paddle = min(max(self.paddle + move, 0), COLUMNS - 1)
        self.ball[0] += 1
        if self.ball[0] < ROWS - 1:
            return None
        return 1.0 if self.ball[1] == self.paddle else -1.0

    def board(self) -> Any:
        board = np.zeros((ROWS, COLUMNS), np.float32)
        board[self.ball[0], self.ball[1]] = board[ROWS - 1, self.paddle] = 1.0
        return board


def _specs() -> rpc.ActionObservationSpecs:
    paddle = rpc.TensorSpec(name="paddle", dtype=rpc.INT32)
    paddle.min.int32s.array[:] = [-1]
    paddle.max.int32s.array[:] = [1]
    board = rpc.TensorSpec(name="board", shape=[ROWS, COLUMNS], dtype=rpc.FLOAT)
    board.min.floats.array[:] = [0.0]
    board.max.floats.array[:] = [1.0]
    reward = rpc.TensorSpec(name="reward", dtype=rpc.FLOAT)
    return rpc.ActionObservationSpecs(actions={PADDLE: paddle}, observations={BOARD: board, REWARD: reward})


class CatchService(dm_env_rpc_pb2_grpc.EnvironmentServicer):
    def Process(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        random, game, running = np.random.default_rng(7), None, False
        for request in requests:
            answer = rpc.EnvironmentResponse()
            kind = request.WhichOneof("payload")
            if kind == "create_world":
                answer.create_world.world_name = "catch"
            elif kind == "join_world":
                answer.join_world.specs.CopyFrom(_specs())
            elif kind == "reset":
                game, running = None, False
                answer.reset.specs.CopyFrom(_specs())
            elif kind == "step":
                reward = None
                if game is None or not running:
                    game, running = Catch(random), True
                else:
                    moves = request.step.actions
                    reward = game.step(int(tensor_utils.unpack_tensor(moves[PADDLE])) if PADDLE in moves else 0)
                    running = reward is None
                state = rpc.EnvironmentStateType.RUNNING if running else rpc.EnvironmentStateType.TERMINATED
                answer.step.state = state
                answer.step.observations[BOARD].CopyFrom(tensor_utils.pack_tensor(game.board()))
                answer.step.observations[REWARD].CopyFrom(tensor_utils.pack_tensor(np.float32(reward or 0.0)))
            elif kind == "leave_world":
                answer.leave_world.SetInParent()
            elif kind == "destroy_world":
                answer.destroy_world.SetInParent()
            else:
                answer.error.CopyFrom(grpc_status(f"{kind} is not known here"))
            yield answer


def grpc_status(message: str) -> Any:
    from google.rpc import status_pb2

    return status_pb2.Status(code=grpc.StatusCode.UNIMPLEMENTED.value[0], message=message)


def serve() -> tuple[grpc.Server, str]:
    """A server on a free port, and its address."""
    server = grpc.server(futures.ThreadPoolExecutor(16))
    dm_env_rpc_pb2_grpc.add_EnvironmentServicer_to_server(CatchService(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, f"127.0.0.1:{port}"
