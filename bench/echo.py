"""The peer of ``Act``: the same call, options and messages, and no work."""

from __future__ import annotations

from concurrent import futures
from typing import Any

import grpc

from generated import policy_trainer_pb2 as pb
from generated import policy_trainer_pb2_grpc


class Echo(policy_trainer_pb2_grpc.PolicyTrainerServiceServicer):
    def Act(self, request: pb.ActRequest, context: Any) -> pb.ActResponse:
        return pb.ActResponse(action=1, success=True)


def main() -> None:
    limit = 16 << 20
    server = grpc.server(
        futures.ThreadPoolExecutor(10),
        options=[
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", limit),
            ("grpc.max_send_message_length", limit),
        ],
    )
    policy_trainer_pb2_grpc.add_PolicyTrainerServiceServicer_to_server(Echo(), server)
    print(f"echo at 127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main()
