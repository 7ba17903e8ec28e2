"""Checkpoints in an object store: an S3 server in a process of its own, over real sockets."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
import pytest

from auxilium_rl.core.errors import ModelCorrupt, StoreUnavailable
from auxilium_rl.infra.model_store import ModelStore
from tests.e2e.harness import running, until, worker_of
from tests.e2e.proxy import Proxy
from tests.faults.test_resume import ended, start
from tests.faults.test_stores import waiting
from tests.unit.infra.test_model_store import write

RUN = "0123456789abcdef" * 2
KEYS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "hush-hush",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_MAX_ATTEMPTS": "1",
}


@contextmanager
def s3() -> Iterator[int]:
    """The port of an S3 server that knows one bucket, ``models``."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: listens(port), "the object store", 30)
        files(port).mkdir("models")
        yield port
    finally:
        process.terminate()
        process.wait(timeout=10)


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def files(port: int) -> Any:
    return fsspec.filesystem(
        "s3",
        endpoint_url=f"http://127.0.0.1:{port}",
        key="testing",
        secret="hush-hush",
        use_listings_cache=False,
        skip_instance_cache=True,
    )


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with s3() as port:
        yield port


def on(port: int, folder: str) -> dict[str, Any]:
    return {**KEYS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "checkpoint_dir": f"s3://models/{folder}"}


def weights(port: int, status: Any) -> bytes:
    data: bytes = files(port).cat_file(status.checkpoints[-1].path)
    return data


def test_train_resume_act_export_delete(port: int, tmp_path: Path) -> None:
    with running(tmp_path / "data", checkpoint_freq=500, **on(port, "whole")) as server:
        alone = ended(start(server, "dqn", total_timesteps=2500))
        run = start(server, "dqn", total_timesteps=2500, model_output_path="taken/home")
        until(lambda: len(run.status().checkpoints) > 1, "a checkpoint")
        worker_of(server, run.run_id).kill()
        status = ended(run)
        assert status.attempt == 2
        assert status.checkpoints[-1].path.startswith(f"s3://models/whole/{run.run_id}/")
        assert policy(weights(port, status)) == policy(weights(port, alone))
        assert server.act(run.run_id, [0, 0, 0, 0]).success
        assert server.act("taken/home", [0, 0, 0, 0]).success
        assert Path(status.exported_path).read_bytes() == weights(port, status)
        named = server.client.policy(run.run_id)  # its versions lie there too
        assert files(port).exists(f"models/whole-policies/{run.run_id}")
        assert [version.version for version in named.info().versions] == [0, 1]
        assert policy(named.read("model.zip")) == policy(weights(port, status))
        assert server.act(f"{run.run_id}@1", [0, 0, 0, 0]).success
        assert run.delete() > 0
        assert not files(port).exists(f"models/whole-policies/{run.run_id}")
        assert not files(port).exists(f"models/whole/{run.run_id}")
        unknown = f"models/whole/{'0' * 32}/000000000001-periodic-00000000/model.zip"
        files(port).pipe_file(unknown, b"x")
        assert server.client.collect_garbage() == []  # it is young
        assert "hush" not in server.logged()


def policy(model: bytes) -> bytes:
    """The weights of a model.zip as they lie there."""
    import io
    import zipfile

    with zipfile.ZipFile(io.BytesIO(model)) as archive:
        return archive.read("policy.pth")


@pytest.mark.long
def test_a_store_that_is_away_is_waited_for(port: int, tmp_path: Path) -> None:
    proxy = Proxy(("127.0.0.1", port))
    with running(tmp_path / "data", checkpoint_freq=500, health_probe_interval=0.2, **on(proxy.port, "away")) as server:
        run = start(server, "ppo", total_timesteps=32 * 2 * 100)
        until(lambda: len(run.status().checkpoints) > 1, "a checkpoint")
        assert run.act([0, 0, 0, 0]) in {0, 1}
        proxy.refuse(True)
        waiting(run, "s3://models/away")
        until(lambda: server.client.health("readiness") == "NOT_SERVING", "NOT_SERVING")
        assert run.act([0, 0, 0, 0]) in {0, 1}
        proxy.refuse(False)
        assert ended(run).attempt == 1
    proxy.close()


def test_the_store_itself(port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in on(port, "").items():
        if name.startswith("AWS"):
            monkeypatch.setenv(name, value)
    store = ModelStore(tmp_path / "models", "s3://models/itself")
    checkpoint = store.put(RUN, 64, "periodic", write)
    assert store.read(checkpoint, "policy.json") == b"{}"
    files(port).pipe_file(f"{checkpoint.path}/policy.json", b"[]")
    with pytest.raises(ModelCorrupt, match="is not what was recorded"):
        store.read(checkpoint, "policy.json")
    store.put_part(RUN, "one", b"1")
    store.put_part(RUN, "two", b"2")
    store.keep_parts(RUN, {"two"})
    with pytest.raises(ModelCorrupt, match="missing"):
        store.read_part(RUN, "one", "")
    assert store.run_ids() == [RUN]
    assert store.strays(RUN, {checkpoint.path}, 0) == []
    assert [path for path, _ in store.strays(RUN, set(), -10)] == [checkpoint.path]
    store.discard(checkpoint)
    store.discard(checkpoint)
    assert store.remove_run(RUN) == 1
    assert store.run_ids() == []
    store.probe()
    for wrong in ("s3://no-such-bucket/x", "nonsense://x"):
        with pytest.raises(StoreUnavailable, match=wrong.split(":")[0]):
            ModelStore(tmp_path / "models", wrong).probe()
