"""What the repository promises about itself."""

from __future__ import annotations

import filecmp
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.harness import ROOT


def test_committed_stubs_are_those_of_the_contracts(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("build_stubs", ROOT / "scripts" / "build_stubs.py")
    assert spec is not None and spec.loader is not None
    builder = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(builder)
    built = tmp_path / "generated"
    builder.build(built)
    fresh = {path.relative_to(built) for path in built.rglob("*.py*") if "__pycache__" not in path.parts}
    kept = {
        p.relative_to(ROOT / "generated") for p in (ROOT / "generated").rglob("*.py*") if "__pycache__" not in p.parts
    }
    assert fresh == kept
    assert all(filecmp.cmp(built / path, ROOT / "generated" / path, shallow=False) for path in fresh)


@pytest.mark.parametrize(
    "module", ["auxilium_rl.app", "auxilium_rl.client", "auxilium_rl.cli.main", "auxilium_rl.core.training"]
)
def test_module_does_not_import_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules or 'stable_baselines3' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_demo_small(tmp_path: Path) -> None:
    """The demonstration of ``make demo``, with less to learn."""
    demo = [sys.executable, str(ROOT / "examples" / "cartpole" / "demo.py")]
    small = ["--timesteps", "4096", "--episodes", "2", "--goal", "8", "--out", str(tmp_path)]
    result = subprocess.run([*demo, *small], capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "health     SERVING" in result.stdout
    assert (tmp_path / "learning-curve.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("example", ["embedding/embed.py"])
def test_example(example: str, tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, str(ROOT / "examples" / example)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
