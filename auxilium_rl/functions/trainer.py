"""agentlace's names for an actor that feeds a learner, over gRPC: data go up, networks come down, requests in between.

    server = TrainerServer(config, request_callback=answer)
    server.register_data_store("actor", QueuedDataStore(10_000))
    server.start(threaded=True)
    server.publish_network(params)

    client = TrainerClient("actor", "127.0.0.1", config, data_store=store)
    client.recv_network_callback(update)
    client.start_async_update(interval=1)

What is otherwise: nothing is pickled (values are numbers, text, bytes, arrays, lists, tuples and maps with text as
keys); every item is stored once, whatever is sent again, by whichever of several clients, and whoever was started anew;
the first network reaches every client, also one that comes later.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import grpc
import structlog

from auxilium_rl.functions.client import CallError, CallTimeout, InferenceClient
from auxilium_rl.functions.server import InferenceServer
from auxilium_rl.wire.trees import pack, unpack

__all__ = ["DataStoreBase", "QueuedDataStore", "TrainerClient", "TrainerConfig", "TrainerSMInterface", "TrainerServer"]

_log = structlog.get_logger(__name__)
_POLL_S, _LONGEST_PAUSE = 10.0, 2.0
_BATCH = 1000
"""Items of one message."""


@dataclass
class TrainerConfig:
    """What server and clients must agree on.

    Attributes:
        port_number: of data and requests; 0 takes a free one (``TrainerServer.port``).
        broadcast_port: of networks; 0 likewise.
        request_types: that may be asked for.
        rate_limit: calls a second that a client makes at most; None: any number.
    """

    port_number: int = 5555
    broadcast_port: int = 5556
    request_types: list[str] = field(default_factory=list)
    rate_limit: int | None = None
    version: str = "0.0.1"

    @property
    def agreed(self) -> str:
        """As JSON, without the ports: whoever is connected has found them."""
        told = {name: value for name, value in asdict(self).items() if not name.endswith(("port", "port_number"))}
        return json.dumps(told, sort_keys=True)


class DataStoreBase:
    """Keeps items in order; ids rise by one, from 0.

    Args:
        capacity: items that are kept.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"capacity: {capacity} given; at least 1 is accepted")
        self.capacity = capacity

    def latest_data_id(self) -> int:
        """Of the newest item; -1: there was none."""
        raise NotImplementedError

    def get_latest_data(self, from_id: int) -> list[Any]:
        """The items after ``from_id``, oldest first, as far as they are still here."""
        raise NotImplementedError

    def numbered(self, from_id: int) -> tuple[int, list[Any]]:
        """The same, and the id of the first of them. Items may come, and old ones go, meanwhile: it is asked again."""
        while True:
            latest = self.latest_data_id()
            items = self.get_latest_data(from_id)
            if self.latest_data_id() == latest:
                return latest - len(items) + 1, items

    def __len__(self) -> int:
        raise NotImplementedError

    def insert(self, data: Any) -> None:
        """Add an item."""
        raise NotImplementedError

    def batch_insert(self, batch_data: Iterable[Any]) -> None:
        """Add items."""
        for data in batch_data:
            self.insert(data)

    def batch_insert_from(self, source: str, batch_data: Iterable[Any], *, continues: bool = True) -> None:
        """Add items that one client of a ``TrainerServer`` sent, in its order.

        A store that keeps together what belongs together says here what it does with it; others need not.

        Args:
            source: the client, of this start; another one's items may come in between.
            continues: they follow its last ones. Else some were lost, or these are its first.
        """
        self.batch_insert(batch_data)


class QueuedDataStore(DataStoreBase):
    """A queue; when it is full the oldest item goes."""

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._items: deque[Any] = deque(maxlen=capacity)
        self._latest, self._lock = -1, threading.RLock()

    def latest_data_id(self) -> int:
        """See ``DataStoreBase``."""
        return self._latest

    def insert(self, data: Any) -> None:
        """See ``DataStoreBase``."""
        with self._lock:
            self._latest += 1
            self._items.append(data)

    def get_latest_data(self, from_id: int) -> list[Any]:
        """See ``DataStoreBase``."""
        with self._lock:
            count = min(max(self._latest - from_id, 0), len(self._items))
            return list(self._items)[len(self._items) - count :]

    def numbered(self, from_id: int) -> tuple[int, list[Any]]:
        """See ``DataStoreBase``."""
        with self._lock:
            return super().numbered(from_id)

    def __len__(self) -> int:
        return len(self._items)


class _Stores:
    """Data stores by name."""

    def __init__(self) -> None:
        self._stores: dict[str, DataStoreBase] = {}

    def register_data_store(self, name: str, data_store: DataStoreBase) -> None:
        """Take data of this name into a store."""
        self._stores[name] = data_store

    def data_store(self, name: str) -> DataStoreBase | None:
        """The store of a name."""
        return self._stores.get(name)

    def store_names(self) -> set[str]:
        """Of all stores."""
        return set(self._stores)


class TrainerServer(_Stores):
    """The learner's side.

    Args:
        data_callback: called with the store's name and ``{"data": items, "last_id": id}`` after they were stored.
        request_callback: called with the type and the payload; what it gives is the answer, what it raises the caller
            hears.
    """

    def __init__(
        self,
        config: TrainerConfig,
        data_callback: Callable[[str, dict[str, Any]], None] | None = None,
        request_callback: Callable[[str, dict[str, Any]], dict[str, Any]] | None = None,
        *,
        host: str = "127.0.0.1",
        clients: int = 64,
    ) -> None:
        super().__init__()
        self.config = config
        self._on_data, self._on_request = data_callback, request_callback
        self._last: dict[tuple[str, str], int] = {}
        self._storing = threading.Lock()
        self._network: tuple[int, bytes] = 0, b""
        self._published, self._stopped = threading.Condition(), False
        self._calls = InferenceServer(host, config.port_number)
        self._networks = InferenceServer(host, config.broadcast_port, workers=clients)
        for function in (self._agreed, self._last_id, self._push, self._request):
            self._calls.register(function.__name__.strip("_"), function)
        self._networks.register("network", self._newer_network)
        self.port = self.broadcast_port = 0

    def publish_network(self, payload: dict[str, Any]) -> None:
        """Give every client a network; who comes later gets the newest. Raises TypeError for what cannot travel."""
        data = pack(payload)
        with self._published:
            self._network = self._network[0] + 1, data
            self._published.notify_all()

    def start(self, threaded: bool = False) -> None:
        """Begin to answer; waits until ``stop``, unless ``threaded``. Raises OSError when a port is taken."""
        self.port, self.broadcast_port = self._calls.start(), self._networks.start()
        if not threaded:
            self._calls.wait()

    def stop(self) -> None:
        """Answer no more."""
        with self._published:
            self._stopped = True
            self._published.notify_all()
        self._networks.stop()
        self._calls.stop()

    # -- what clients call

    def _agreed(self) -> str:
        return self.config.agreed

    def _last_id(self, store: str, source: str) -> int:
        self._known(store)
        return self._last.get((store, source), -1)

    def _push(self, store: str, source: str, first: int, items: bytes) -> int:
        """Store items with the ids ``first``, ``first + 1``, …, but for those that are; gives the last id."""
        data, first = unpack(items), int(first)  # numbers travel as JSON's
        with self._storing:
            known = self._last.get((store, source), -1)
            fresh = data[max(known + 1 - first, 0) :]
            self._known(store).batch_insert_from(source, fresh, continues=known >= 0 and first <= known + 1)
            last = max(known, first + len(data) - 1)
            self._last[store, source] = last
        if fresh and self._on_data is not None:
            self._on_data(store, {"data": fresh, "last_id": last})
        return last

    def _request(self, type: str, payload: bytes) -> bytes:
        if type not in self.config.request_types:
            raise ValueError(f"type: '{type:.80}' given; {', '.join(self.config.request_types) or 'none'} are accepted")
        return pack({} if self._on_request is None else self._on_request(type, unpack(payload)))

    def _newer_network(self, have: int) -> dict[str, Any]:
        """The newest network as soon as it is another than ``have``; the same number: there is none yet."""
        with self._published:
            self._published.wait_for(lambda: self._network[0] != have or self._stopped, _POLL_S)
            return {"number": self._network[0], "payload": self._network[1]}

    def _known(self, store: str) -> DataStoreBase:
        if store not in self._stores:
            known = ", ".join(sorted(self._stores)) or "none"
            raise ValueError(f"store_name: '{store:.80}' given; {known} is registered")
        return self._stores[store]


class TrainerClient:
    """The actor's side.

    Args:
        name: of the store on the server that ``data_store`` feeds.
        server_ip: of the server; its ports are those of ``config``.
        data_stores: by the names of stores on the server, in place of ``data_store``.
        wait_for_server: until it answers; else ConnectionError is raised.
        timeout_ms: of each call.

    Raises:
        ConnectionError: no server answered. ValueError: its configuration is another.
    """

    def __init__(
        self,
        name: str,
        server_ip: str,
        config: TrainerConfig,
        data_store: DataStoreBase | None = None,
        data_stores: Mapping[str, DataStoreBase] | None = None,
        *,
        wait_for_server: bool = False,
        timeout_ms: float = 5000,
    ) -> None:
        self.config, self._server = config, server_ip
        self._stores = dict(data_stores or {}) or ({} if data_store is None else {name: data_store})
        self._source = f"{name}-{uuid.uuid4().hex}"
        self._calls = InferenceClient(f"{server_ip}:{config.port_number}", timeout=timeout_ms / 1000)
        self._networks: InferenceClient | None = None
        self._threads: list[threading.Thread] = []
        self._stopped, self._updating = threading.Event(), threading.Lock()
        self._asked_at = 0.0
        self.lost = 0
        """Items that left a store before they were sent, since it was full."""
        try:
            self._check(wait_for_server)
        except BaseException:
            self._calls.close()
            raise

    def update(self) -> bool:
        """Send what the stores have and the server has not; whether all of it is there now."""
        with self._updating:
            try:
                for name, store in self._stores.items():
                    self._send(name, store)
            except CallError as error:
                _log.warning("update_failed", reason=str(error))
                return False
        return True

    def get_server_last_update_id(self, name: str) -> int | None:
        """The last item of this client that a store of the server has; -1: none; None: it did not say."""
        try:
            return int(self._calls.call("last_id", store=name, source=self._source))
        except CallError as error:
            _log.warning("last_id_unknown", reason=str(error))
            return None

    def request(self, type: str, payload: dict[str, Any]) -> dict[str, Any] | None:
        """Ask the server something; None: it did not answer in time, or ``rate_limit`` forbids.

        Raises:
            CallError: the type is none of ``request_types``, or the server's callback raised.
        """
        if self.config.rate_limit and time.monotonic() - self._asked_at < 1 / self.config.rate_limit:
            _log.warning("rate_limit_exceeded", rate_limit=self.config.rate_limit)
            return None
        self._asked_at = time.monotonic()
        try:
            answer: dict[str, Any] = unpack(self._calls.call("request", type=type, payload=pack(payload)))
        except CallError as error:
            if isinstance(error, CallTimeout) or error.code is grpc.StatusCode.UNAVAILABLE:
                _log.warning("request_unanswered", type=type, reason=str(error))
                return None
            raise
        return answer

    def recv_network_callback(self, callback: Callable[[dict[str, Any]], None]) -> None:
        """Call ``callback`` with the newest network at once, and with every newer one, from a thread of its own."""
        self._networks = InferenceClient(f"{self._server}:{self.config.broadcast_port}", timeout=_POLL_S + 5)
        self._begin(lambda: self._follow(callback), "network")

    def start_async_update(self, interval: float = 10) -> None:
        """Update every ``interval`` seconds, and once more at ``stop``."""

        def periodically() -> None:
            while not self._stopped.wait(interval):
                self.update()

        self._begin(periodically, "update")

    def stop(self) -> None:
        """Send what there is, and leave."""
        self._stopped.set()
        if self._networks is not None:
            self._networks.close()
        for thread in self._threads:
            thread.join()
        self.update()
        self._calls.close()

    def _begin(self, loop: Callable[[], None], name: str) -> None:
        self._threads.append(threading.Thread(target=loop, name=f"trainer-{name}", daemon=True))
        self._threads[-1].start()

    def _check(self, wait: bool) -> None:
        pause = 0.1
        while True:
            try:
                theirs = self._calls.call("agreed")
                break
            except CallError as error:
                if not wait:
                    raise ConnectionError(f"no trainer answers at {self._server}: {error}") from error
            self._stopped.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        if theirs != self.config.agreed:
            raise ValueError(f"config: {self.config.agreed} given; the server has {theirs}")

    def _send(self, name: str, store: DataStoreBase) -> None:
        sent = int(self._calls.call("last_id", store=name, source=self._source))
        while store.latest_data_id() > sent:
            first, items = store.numbered(sent)
            if first > sent + 1:
                self.lost += first - sent - 1
                _log.error(
                    "items_lost", store=name, items=first - sent - 1, reason="the store was full before an update"
                )
            part = items[:_BATCH]
            arguments = {"store": name, "source": self._source, "first": first, "items": pack(part)}
            sent = int(self._calls.call_with("push", arguments))

    def _follow(self, callback: Callable[[dict[str, Any]], None]) -> None:
        have, pause = 0, 0.1
        assert self._networks is not None
        while not self._stopped.is_set():
            try:
                found = self._networks.call("network", have=have)
            except (CallError, ValueError):  # it is away, or this client hung up
                self._stopped.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                continue
            pause = 0.1
            if found["number"] != have:
                have = found["number"]
                if found["payload"]:
                    try:
                        callback(unpack(found["payload"]))
                    except Exception:  # noqa: BLE001 - the next network may be one that it can take
                        _log.exception("network_callback_failed", number=have)


class TrainerSMInterface(_Stores):
    """Server and client in one process, for an actor and a learner in two threads: the same names, no network.

    The actor inserts into the store that the learner registered.
    """

    def __init__(self) -> None:
        super().__init__()
        self._callback: Callable[[dict[str, Any]], None] | None = None
        self._on_request: Callable[[str, dict[str, Any]], dict[str, Any]] | None = None
        self._network: dict[str, Any] | None = None

    def recv_network_callback(self, callback_fn: Callable[[dict[str, Any]], None]) -> None:
        """See ``TrainerClient``."""
        self._callback = callback_fn
        if self._network is not None:
            callback_fn(self._network)

    def publish_network(self, params: dict[str, Any]) -> None:
        """See ``TrainerServer``."""
        self._network = params
        if self._callback is not None:
            self._callback(params)

    def register_request_callback(self, callback_fn: Callable[[str, dict[str, Any]], dict[str, Any]]) -> None:
        """Answer ``request`` with this."""
        self._on_request = callback_fn

    def request(self, type: str, payload: dict[str, Any]) -> dict[str, Any] | None:
        """See ``TrainerClient``."""
        return None if self._on_request is None else self._on_request(type, payload)

    def update(self) -> bool:
        """See ``TrainerClient``; there is nothing to send."""
        return True

    def start(self, threaded: bool = False) -> None:
        """See ``TrainerServer``."""

    def start_async_update(self, interval: float = 10) -> None:
        """See ``TrainerClient``."""

    def stop(self) -> None:
        """See both."""
