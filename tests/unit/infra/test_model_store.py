"""The model store on a real disk."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import pytest

from auxilium_rl.core.errors import InvalidRequest, ModelCorrupt, StoreUnavailable
from auxilium_rl.infra.model_store import ModelStore

EXPERIMENT = "ppo_1000000_4_0.0003_256_64_5_0.90_0.95_0.2_0.1_42_20260301"


def write(folder: Path) -> None:
    with zipfile.ZipFile(folder / "model.zip", "w") as archive:
        archive.writestr("data", "{}")
    (folder / "policy.json").write_text("{}")


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models", tmp_path / "checkpoints")


def test_put_read_discard(store: ModelStore) -> None:
    checkpoint = store.put("run", 64, "periodic", write)
    assert store.read(checkpoint, "policy.json") == b"{}"
    manifest = json.loads((Path(checkpoint.path) / "manifest.json").read_text())
    assert manifest["files"]["model.zip"]["sha256"] == checkpoint.sha256
    assert checkpoint.size == sum(f["size"] for f in manifest["files"].values())
    store.discard(checkpoint)
    with pytest.raises(ModelCorrupt, match=r"manifest\.json is missing"):
        store.read(checkpoint, "policy.json")
    store.discard(checkpoint)


def test_same_checkpoint_again_touches_nothing(store: ModelStore) -> None:
    """The first may be another worker's, which has the run now."""
    both = [store.put("run", 64, "final", write) for _ in range(2)]
    assert [store.read(one, "policy.json") for one in both] == [b"{}", b"{}"]
    assert both[0].path != both[1].path


@pytest.mark.parametrize("name", ["policy.json", "model.zip", "manifest.json"])
def test_flipped_byte_is_found(store: ModelStore, name: str) -> None:
    checkpoint = store.put("run", 64, "final", write)
    path = Path(checkpoint.path) / name
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelCorrupt, match=f"{name} is not what was recorded"):
        store.read(checkpoint, "model.zip" if name == "model.zip" else "policy.json")


@pytest.mark.parametrize("failing", ["rename", "fsync"])
def test_torn_write_is_never_visible(store: ModelStore, failing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, failing, fail)
        with pytest.raises(StoreUnavailable, match="No space left on device"):
            store.put("run", 64, "final", write)
    assert not list(store.checkpoint_dir.glob("run/*"))
    assert not list(store.checkpoint_dir.glob(".writing/*"))
    assert store.put("run", 64, "final", write).timesteps == 64


def test_sweep_removes_what_a_crash_left(store: ModelStore) -> None:
    aside = store.checkpoint_dir / ".writing"
    for name in ("torn", "young"):
        (aside / name).mkdir(parents=True)
    (aside / "file").write_bytes(b"torn")
    for name in ("torn", "file"):
        os.utime(aside / name, (0, 0))
    store.sweep()
    assert [path.name for path in aside.iterdir()] == ["young"]  # somebody may be writing it


def test_run_id_is_no_path(store: ModelStore) -> None:
    with pytest.raises(ValueError, match="is not a run id"):
        store.put("../out", 1, "final", write)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("a/b", "a/b.zip"),
        (r"a\b", "a/b.zip"),
        ("a/b.zip", "a/b.zip"),
        (f"out/{EXPERIMENT}", f"out/{EXPERIMENT}.zip"),
        (rf"E:\FILE_STORAGE\{EXPERIMENT}", f"E:/FILE_STORAGE/{EXPERIMENT}.zip"),
        ("E:/FILE_STORAGE/x", "E:/FILE_STORAGE/x.zip"),
        ("a/../b", "b.zip"),
    ],
)
def test_export_target(store: ModelStore, given: str, expected: str) -> None:
    assert store.export_target(given) == str(store.models_dir / expected)


def test_absolute_export_target(store: ModelStore) -> None:
    inside = store.models_dir / "x" / "y"
    assert store.export_target(str(inside)) == f"{inside}.zip"


@pytest.mark.parametrize("given", ["../x", "a/../../x", "/etc/x", "..\\x", "", ".", "a/", "a\0b", "x" * 300])
def test_export_target_refused(store: ModelStore, given: str) -> None:
    with pytest.raises(InvalidRequest, match="model_output_path"):
        store.export_target(given)


def test_export_target_through_a_link_that_leads_out(store: ModelStore, tmp_path: Path) -> None:
    (store.models_dir / "link").symlink_to(tmp_path)
    with pytest.raises(InvalidRequest, match="MODEL_EXPORT_ROOT"):
        store.export_target("link/x")


def test_export_into_the_store_itself_is_refused(tmp_path: Path) -> None:
    store = ModelStore(tmp_path, tmp_path / "checkpoints")
    with pytest.raises(InvalidRequest, match="the store's own folder"):
        store.export_target("checkpoints/x")
    (tmp_path / "folder.zip").mkdir()
    with pytest.raises(InvalidRequest, match="is a folder"):
        store.export_target("folder")


def test_export_leaves_one_file(store: ModelStore) -> None:
    target = Path(store.export_target("out/x"))
    for timesteps in (1, 2):
        store.export(store.put("run", timesteps, "final", write), str(target))
    assert [path.name for path in target.parent.iterdir()] == ["x.zip"]


def test_export_to_a_folder_that_cannot_be_made(store: ModelStore) -> None:
    (store.models_dir / "file").write_text("")
    checkpoint = store.put("run", 1, "final", write)
    with pytest.raises(StoreUnavailable, match="cannot be exported"):
        store.export(checkpoint, str(store.models_dir / "file" / "x.zip"))
    assert not list((store.models_dir / ".writing").iterdir())


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailable, match="cannot be made"):
        ModelStore(tmp_path / "file" / "models", tmp_path / "checkpoints")


def test_what_cannot_be_removed_is_not_said_to_be_gone(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = store.put("run", 64, "periodic", write)
    monkeypatch.setattr("auxilium_rl.infra.checkpoint_places.shutil.rmtree", lambda *_, **__: None)
    with pytest.raises(StoreUnavailable, match="could not be removed"):
        store.remove_run("run")
    with pytest.raises(StoreUnavailable, match="could not be removed"):
        store.remove_stray(checkpoint.path)


def test_files_of_unknown_age_are_young(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ModelStore(tmp_path / "models", f"memory://{tmp_path.name}")
    checkpoint = store.put("run", 64, "periodic", write)
    assert [path for path, _ in store.strays("run", set(), -10)] == [checkpoint.path]
    monkeypatch.setattr("auxilium_rl.infra.checkpoint_places._CHANGED", ())
    assert store.strays("run", set(), 0.5) == []
    assert store.remove_run("run") > 0
