"""Devices that are no environment: observations by name, actions by name, and what a device publishes by itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NoReturn

import grpc

from auxilium_rl.wire.call_pool import CallPool
from auxilium_rl.wire.frames import MAX_FRAME
from auxilium_rl.wire.plain_values import from_message, to_message
from generated.auxilium.v1 import device_pb2 as pb
from generated.auxilium.v1 import device_pb2_grpc

__all__ = ["ActionClient", "ActionServer", "DeviceError"]

_LIMITS = [("grpc.max_receive_message_length", MAX_FRAME), ("grpc.max_send_message_length", MAX_FRAME)]


class DeviceError(Exception):
    """The device refused, raised, or cannot be reached; says which."""


class ActionServer(device_pb2_grpc.DeviceServiceServicer):
    """Serves one device.

    Args:
        observe: gives values for the keys asked for.
        act: carries out one named action; what it returns goes to the caller. Called by one thread at a time.
        observation_keys, action_keys: the names there are; any other is refused.
        port: 0 takes a free one.

    Values are numbers, text, None, lists and maps of these, bytes, and numpy arrays.
    """

    def __init__(
        self,
        observe: Callable[[Collection[str]], Mapping[str, Any]],
        act: Callable[[str, Any], Mapping[str, Any] | None],
        *,
        observation_keys: Collection[str],
        action_keys: Collection[str],
        host: str = "127.0.0.1",
        port: int = 0,
        max_watchers: int = 64,
    ) -> None:
        self._observe, self._act = observe, act
        self._observation_keys, self._action_keys = tuple(observation_keys), tuple(action_keys)
        self._host, self._wanted = host, port
        self._acting = threading.Lock()
        self._news = threading.Condition()
        self._published: dict[str, pb.DeviceValue] = {}
        self._seq = 0
        self._ended = False
        self._watchers = threading.Semaphore(max_watchers)
        self._pool = CallPool(max_watchers + 8, "device")
        self._server = grpc.server(self._pool, options=[("grpc.so_reuseport", 0), *_LIMITS])
        device_pb2_grpc.add_DeviceServiceServicer_to_server(self, self._server)

    def start(self) -> int:
        """Begin to answer; gives the port. Raises OSError when it is taken."""
        try:
            port: int = self._server.add_insecure_port(f"{self._host}:{self._wanted}")
        except RuntimeError as error:
            raise OSError(f"cannot listen on {self._host}:{self._wanted}: {error}") from error
        self._server.start()
        return port

    def wait(self) -> None:
        """Wait until ``stop`` was called."""
        self._server.wait_for_termination()

    def stop(self) -> None:
        """End every call."""
        with self._news:
            self._ended = True
            self._news.notify_all()
        self._server.stop(0.5).wait()
        self._pool.shutdown()

    def publish_obs(self, values: Mapping[str, Any]) -> None:
        """Tell everybody who watches. Never waits for them: who is slow misses what was replaced meanwhile."""
        messages = {str(key): to_message(value) for key, value in values.items()}
        with self._news:
            self._published = messages
            self._seq += 1
            self._news.notify_all()

    # -- the service

    def Describe(self, request: pb.DescribeDeviceRequest, context: grpc.ServicerContext) -> pb.Device:
        """Which names there are."""
        return pb.Device(observation_keys=self._observation_keys, action_keys=self._action_keys)

    def Read(self, request: pb.ReadDeviceRequest, context: grpc.ServicerContext) -> pb.DeviceValues:
        """Observations, now."""
        for key in request.keys:
            if key not in self._observation_keys:
                _refuse(context, "keys", key, self._observation_keys)
        wanted = set(request.keys or self._observation_keys)
        found = _answered(context, lambda: self._observe(wanted))
        missing = wanted - set(found)
        if missing:
            context.abort(grpc.StatusCode.INTERNAL, f"the device gave no value for {', '.join(sorted(missing))}")
        return pb.DeviceValues(values={key: to_message(found[key]) for key in wanted})

    def Act(self, request: pb.DeviceAction, context: grpc.ServicerContext) -> pb.DeviceValues:
        """One action."""
        if request.key not in self._action_keys:
            _refuse(context, "key", request.key, self._action_keys)
        try:
            payload = from_message(request.payload)
        except ValueError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"payload: {error}")
        with self._acting:
            found = _answered(context, lambda: self._act(request.key, payload) or {})
        return pb.DeviceValues(values={str(key): to_message(value) for key, value in found.items()})

    def Watch(self, request: pb.WatchDeviceRequest, context: grpc.ServicerContext) -> Iterator[pb.DeviceValues]:
        """What is published from now on."""
        if not self._watchers.acquire(blocking=False):
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "as many watch as may")
        gone = threading.Event()

        def left() -> None:
            gone.set()
            with self._news:
                self._news.notify_all()

        try:
            if not context.add_callback(left):
                return
            seen = self._seq
            while True:
                with self._news:
                    if self._seq == seen and not self._ended and not gone.is_set():
                        self._news.wait()
                    if self._ended or gone.is_set():
                        return
                    if self._seq == seen:
                        continue
                    seen, values = self._seq, dict(self._published)
                wanted = request.keys or values
                yield pb.DeviceValues(seq=seen, values={key: values[key] for key in wanted if key in values})
        finally:
            self._watchers.release()


class ActionClient:
    """Reads, moves and watches a device.

    Args:
        address: ``host:port``.
        timeout: seconds for each call.
    """

    def __init__(self, address: str, *, timeout: float = 10.0) -> None:
        self._channel = grpc.insecure_channel(address, options=[*_LIMITS, ("grpc.enable_http_proxy", 0)])
        self._stub = device_pb2_grpc.DeviceServiceStub(self._channel)
        self._timeout = timeout
        self._calls: list[Any] = []

    def __enter__(self) -> ActionClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def keys(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The names of observations and of actions. Raises DeviceError."""
        device = self._called(self._stub.Describe, pb.DescribeDeviceRequest())
        return tuple(device.observation_keys), tuple(device.action_keys)

    def obs(self, keys: Collection[str] = ()) -> dict[str, Any]:
        """Observations by name; none named: all. Raises DeviceError."""
        return _plain(self._called(self._stub.Read, pb.ReadDeviceRequest(keys=list(keys))))

    def act(self, key: str, payload: Any = None) -> dict[str, Any]:
        """Carry out an action; what the device answers. Never sent twice. Raises DeviceError."""
        return _plain(self._called(self._stub.Act, pb.DeviceAction(key=key, payload=to_message(payload))))

    def on_obs(self, callback: Callable[[dict[str, Any]], None], keys: Collection[str] = ()) -> None:
        """Have ``callback`` called with what the device publishes, from a thread of this client's own."""
        call: Any = self._stub.Watch(pb.WatchDeviceRequest(keys=list(keys)), wait_for_ready=True)
        self._calls.append(call)

        def follow() -> None:
            try:
                for values in call:
                    callback(_plain(values))
            except grpc.RpcError:
                return

        threading.Thread(target=follow, name="device-watch", daemon=True).start()

    def close(self) -> None:
        """Hang up."""
        for call in self._calls:
            call.cancel()
        self._channel.close()

    def _called(self, method: Any, request: Any) -> Any:
        try:
            return method(request, timeout=self._timeout)
        except grpc.RpcError as error:
            raise DeviceError(f"{error.code().name}: {error.details()}") from error


def _plain(values: pb.DeviceValues) -> dict[str, Any]:
    return {key: from_message(value) for key, value in values.values.items()}


def _answered(context: grpc.ServicerContext, ask: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
    try:
        return ask()
    except Exception as error:  # the device is the user's; the caller must hear what it raised
        context.abort(grpc.StatusCode.INTERNAL, f"the device raised {type(error).__name__}: {error}")
        raise AssertionError("abort returned") from error


def _refuse(context: grpc.ServicerContext, field: str, given: str, accepted: Collection[str]) -> NoReturn:
    context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"{field}: '{given:.80}' given; {', '.join(accepted)} are accepted")
    raise AssertionError("abort returned")
