"""Builds generated/ from proto/. Run by ``make proto``; a test compares its output with what is committed."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEADER = '"""Stubs built from proto/ by ``make proto``. Not edited by hand."""\n'


def build(target: Path) -> None:
    """Write the Python stubs and their ``.pyi`` of every contract below ``target`` (a package named ``generated``)."""
    import grpc_tools
    from grpc_tools import protoc

    target.mkdir(parents=True, exist_ok=True)
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    sources = sorted(str(p.relative_to(ROOT / "proto")) for p in (ROOT / "proto").rglob("*.proto"))
    plugin = Path(sys.executable).parent
    arguments = [
        "protoc",
        f"-I{ROOT / 'proto'}",
        f"-I{well_known}",
        f"--python_out={target}",
        f"--grpc_python_out={target}",
        f"--plugin=protoc-gen-mypy={plugin / 'protoc-gen-mypy'}",
        f"--plugin=protoc-gen-mypy_grpc={plugin / 'protoc-gen-mypy_grpc'}",
        f"--mypy_out=quiet:{target}",
        f"--mypy_grpc_out=quiet:{target}",
        *sources,
    ]
    if protoc.main(arguments) != 0:
        raise SystemExit("protoc failed")
    for folder in {target, *(p.parent for p in target.rglob("*_pb2.py"))}:
        for package in (folder, *folder.parents):
            (package / "__init__.py").write_text(HEADER)
            if package == target:
                break
    for stub in [*target.rglob("*.py"), *target.rglob("*.pyi")]:
        stub.write_text(_relative_imports(stub.read_text(), depth=len(stub.relative_to(target).parts) - 1))


def _relative_imports(text: str, depth: int) -> str:
    """Make imports of our own stubs relative: nothing needs ``sys.path``, and no module has two names."""
    dots = "." * (depth + 1)
    text = re.sub(r"^import (policy_trainer_pb2|simulation_pb2)\b", rf"from {dots} import \1", text, flags=re.M)
    text = re.sub(
        r"^from (auxilium[.\w]*|simulation\.[.\w]*|inference) import", rf"from {dots}\1 import", text, flags=re.M
    )
    return re.sub(
        r"^import (auxilium[.\w]*|simulation\.[.\w]*|inference)\.(\w+_pb2)( as \w+)?$",
        rf"from {dots}\1 import \2\3",
        text,
        flags=re.M,
    )


if __name__ == "__main__":
    generated = ROOT / "generated"
    shutil.rmtree(generated, ignore_errors=True)
    build(generated)
