"""``simulation.v2.EnvironmentGateway``: simulators dial in, and their messages pass through undecoded."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from auxilium_rl.core.attachments import Introduction
from auxilium_rl.core.errors import AttachRefused, AuxiliumError, StreamsExhausted
from auxilium_rl.core.ports import SimulatorGateway
from auxilium_rl.transport.errors import abort
from auxilium_rl.wire.generation import GENERATION
from generated.simulation.v2 import simulation_pb2 as pb

__all__ = ["SERVICE", "gateway_service"]

SERVICE = "simulation.v2.EnvironmentGateway"
_MAX_LANES = 4096


def gateway_service(gateway: SimulatorGateway, max_streams: int) -> grpc.GenericRpcHandler:
    """The handlers of the service.

    Args:
        max_streams: simulators attached at once, over all runs. Each holds two threads of a pool of their own.
    """
    slots = threading.Semaphore(max_streams)

    def attach(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        if not slots.acquire(blocking=False):
            abort(context, StreamsExhausted(f"{max_streams} simulators are attached; MAX_ATTACHED_STREAMS bounds them"))
        try:
            yield from _attached(gateway, requests, context)
        except AuxiliumError as error:
            abort(context, error)
        finally:
            slots.release()

    handler: Any = attach
    handler.experimental_thread_pool = futures.ThreadPoolExecutor(max_streams + 1, thread_name_prefix="attached")
    return grpc.method_handlers_generic_handler(SERVICE, {"Attach": grpc.stream_stream_rpc_method_handler(handler)})


def _attached(gateway: SimulatorGateway, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
    """What workers ask of one simulator, until its stream ends."""
    first = next(requests, None)
    if first is None:
        return
    intro, token = _introduction(first, context.peer())
    stream = gateway.attach(intro, token, context.cancel)
    if not context.add_callback(stream.left):
        stream.left()
        return

    def answers() -> None:
        try:
            for data in requests:
                stream.deliver(data)
        except Exception:  # noqa: BLE001 - gRPC raises a bare Exception when the call has ended
            return
        finally:
            stream.left()

    threading.Thread(target=answers, name="attached-answers", daemon=True).start()
    yield from stream.requests()


def _introduction(data: bytes, peer: str) -> tuple[Introduction, bytes]:
    """What the first message says. Raises AttachRefused."""
    try:
        message = pb.FromEnv.FromString(data)
    except DecodeError as error:
        raise AttachRefused(f"the first message is no simulation.v2.FromEnv: {error}") from error
    if message.WhichOneof("kind") != "contract":
        raise AttachRefused(f"{message.WhichOneof('kind')} came first; a contract must")
    contract = message.contract
    if contract.generation != GENERATION:
        raise AttachRefused(f"generation: '{contract.generation:.40}' was offered; this trainer speaks '{GENERATION}'")
    if not 1 <= contract.lanes <= _MAX_LANES:
        raise AttachRefused(f"lanes: {contract.lanes} given; 1 to {_MAX_LANES} are accepted")
    intro = Introduction(
        contract.experiment_id,
        contract.session_id,
        contract.resume_token,
        contract.lanes,
        contract.lease_ms / 1000,
        contract.component,
        contract.version,
        contract.language,
        peer,
    )
    return intro, contract.attach_token
