"""A program of a user's own that embeds the service, with a closure as the factory of its environments."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from auxilium_rl.core.errors import InvalidRequest, StoreUnavailable
from auxilium_rl.core.training import TrainingOrchestrator
from auxilium_rl.infra.config import EnvConfig, ServiceConfig
from auxilium_rl.infra.external_env_adapter import ExternalEnvAdapter, FakeExternalEnvAdapter
from auxilium_rl.infra.model_store import ModelStore
from auxilium_rl.transport.grpc_server import create_server
from generated import policy_trainer_pb2 as pb
from generated import policy_trainer_pb2_grpc
from tests.e2e.harness import start_request, until


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Makes a server in this process; every one is stopped in the end."""
    servers: list[Any] = []

    def make(factory: Any = None, dims: tuple[int, int] = (3, 2)) -> Any:
        models, checkpoints = str(tmp_path / "models"), str(tmp_path / "checkpoints")
        orchestrator = TrainingOrchestrator(ModelStore(models, checkpoints), EnvConfig(*dims, 20), 64)
        config = ServiceConfig("127.0.0.1", 0, 4, checkpoints, models, "INFO")
        server = create_server(orchestrator=orchestrator, config=config, adapter_factory=factory)
        servers.append(server)
        server.start()
        return server

    yield make
    for server in servers:
        server.stop(5)


def train(server: Any, **fields: Any) -> tuple[pb.TrainingResponse, pb.StatusResponse, pb.ActResponse]:
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub: Any = policy_trainer_pb2_grpc.PolicyTrainerServiceStub(channel)
        started = stub.StartTrainingPPO(start_request(**fields))

        def status() -> pb.StatusResponse:
            return stub.GetTrainingStatus(pb.StatusRequest(run_id=started.run_id))

        until(lambda: status().is_done or started.status == pb.FAILED, "the end")
        act = stub.Act(pb.ActRequest(run_id=started.run_id, observation=[0.1, 0.2, 0.3]))
        return started, status(), act


def test_closure_as_factory(embedded: Callable[..., Any], tmp_path: Path) -> None:
    journal = tmp_path / "journal"

    class Line(ExternalEnvAdapter):
        """Writes down what is done to it."""

        def __init__(self, name: str) -> None:
            self.name, self.step_count = name, 0

        def note(self, word: str) -> None:
            with open(journal, "a") as file:
                file.write(f"{self.name} {word}\n")

        def reset(self, seed: int | None = None) -> Any:
            self.note(f"reset {seed}")
            self.step_count = 0
            return np.zeros(3, np.float32)

        def step(self, action: int) -> Any:
            self.step_count += 1
            return np.full(3, self.step_count, np.float32), float(action), self.step_count == 7, False, {}

        def close(self) -> None:
            self.note("close")

    server = embedded(lambda gym_id: Line(gym_id))
    hyperparameters = {"gym_ids": "left;right", "n_steps": 16, "batch_size": 16}
    started, status, act = train(server, total_timesteps=64, hyperparameters=hyperparameters)
    assert started.status == pb.STARTED, started.message
    assert status.error_message == ""
    assert act.success
    lines = journal.read_text().splitlines()
    assert lines[:2] == ["left reset 1", "right reset 2"]
    assert lines.count("left reset None") == lines.count("right reset None") > 0
    assert lines[-2:] == ["left close", "right close"]


def test_factory_without_arguments(embedded: Callable[..., Any]) -> None:
    server = embedded(lambda: FakeExternalEnvAdapter(3, 2, 10))
    started, status, act = train(server, hyperparameters={"n_steps": 32, "batch_size": 32})
    assert "training on 'adapter'" in started.message
    assert status.error_message == ""
    assert act.success


def test_no_factory_is_the_fake_environment(embedded: Callable[..., Any]) -> None:
    started, status, _ = train(embedded(), hyperparameters={"n_steps": 32, "batch_size": 32})
    assert "training on 'fake'" in started.message
    assert status.error_message == ""


def test_adapter_that_raises_fails_its_run(embedded: Callable[..., Any]) -> None:
    class Faulty(FakeExternalEnvAdapter):
        def step(self, action: int) -> Any:
            raise OSError("the robot fell over")

    _, status, _ = train(embedded(lambda: Faulty(3, 2)))
    assert status.error_message == "OSError: the robot fell over"


def test_adapter_with_a_wrong_shape(embedded: Callable[..., Any]) -> None:
    _, status, _ = train(embedded(lambda: FakeExternalEnvAdapter(5, 2)))
    assert status.error_message == "lane 0: observation has shape (5,), (3,) was agreed"


def test_factory_that_cannot_travel_is_refused(embedded: Callable[..., Any]) -> None:
    lock = threading.Lock()
    with pytest.raises(InvalidRequest, match="adapter_factory: it must travel to a worker process"):
        embedded(lambda: lock)


def test_port_in_use(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        orchestrator = TrainingOrchestrator(ModelStore(tmp_path / "m", tmp_path / "c"), EnvConfig())
        config = ServiceConfig(
            port=taken.getsockname()[1], models_dir=str(tmp_path / "m"), checkpoint_dir=str(tmp_path / "c")
        )
        with pytest.raises(StoreUnavailable, match="cannot listen on"):
            create_server(orchestrator, config)
