"""The gRPC server of a process that acts, and relays what does not."""

from __future__ import annotations

from concurrent import futures
from typing import Any

import grpc

from auxilium_rl.core.acting import ActingService
from auxilium_rl.core.errors import StoreUnavailable
from auxilium_rl.transport.act_servicers import FrozenActs, ModelInfers, PolicyActs, Presence
from auxilium_rl.transport.relay import Relay
from auxilium_rl.wire.call_pool import CallPool
from generated import policy_trainer_pb2 as frozen
from generated.auxilium.v1 import policies_pb2 as pb
from generated.inference import open_inference_pb2 as oip

__all__ = ["ActServer", "listen_options"]


def listen_options(max_message: int, *, shared: bool) -> list[tuple[str, Any]]:
    """The options of every server of ours.

    Args:
        max_message: bytes.
        shared: several processes listen on the same port.
    """
    return [
        ("grpc.so_reuseport", int(shared)),
        ("grpc.max_receive_message_length", max_message),
        ("grpc.max_send_message_length", max_message),
        # A simulator whose machine vanished says no farewell; its run must hear of it.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ]


class ActServer:
    """Answers ``Act``, ``ActStream`` and ``ModelInfer``; everything else goes to the server behind ``control``.

    Raises:
        StoreUnavailable: the port cannot be shared.
    """

    def __init__(
        self,
        presence: Presence,
        acting: ActingService,
        control: grpc.Channel,
        *,
        address: str,
        max_workers: int,
        max_streams: int,
        max_message: int,
    ) -> None:
        self._pool = CallPool(max_workers, "rpc")
        self._streams = futures.ThreadPoolExecutor(max_streams + 1, thread_name_prefix="act-stream")
        self._relay = Relay(control, frozenset({"/auxilium.v1.PolicyService/OpenFastLane"}))
        self._server = grpc.server(self._pool, options=listen_options(max_message, shared=True))
        acts = PolicyActs(presence, acting, max_streams)
        PolicyActs.ActStream.experimental_thread_pool = self._streams  # type: ignore[attr-defined]
        unary, stream = grpc.unary_unary_rpc_method_handler, grpc.stream_stream_rpc_method_handler
        services: dict[str, dict[str, Any]] = {
            "policy_trainer.PolicyTrainerService": {
                "Act": unary(
                    FrozenActs(presence, acting).Act,
                    frozen.ActRequest.FromString,
                    frozen.ActResponse.SerializeToString,
                )
            },
            "auxilium.v1.PolicyService": {
                "Act": unary(acts.Act, pb.ActRequest.FromString, pb.ActResponse.SerializeToString),
                "ActStream": stream(acts.ActStream, pb.ActRequest.FromString, pb.ActResponse.SerializeToString),
            },
            "inference.GRPCInferenceService": {
                "ModelInfer": unary(
                    ModelInfers(presence, acting).ModelInfer,
                    oip.ModelInferRequest.FromString,
                    oip.ModelInferResponse.SerializeToString,
                )
            },
        }
        handlers = [grpc.method_handlers_generic_handler(name, methods) for name, methods in services.items()]
        self._server.add_generic_rpc_handlers((*handlers, self._relay))
        try:
            self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise StoreUnavailable(f"cannot share {address}: {error}") from error

    def start(self) -> None:
        """Begin to answer."""
        self._server.start()

    def stop(self, grace: float) -> None:
        """Take no new calls and wait up to ``grace`` seconds for those under way."""
        self._server.stop(grace).wait()
        self._relay.close()
        self._pool.shutdown()
        self._streams.shutdown(wait=False, cancel_futures=True)
