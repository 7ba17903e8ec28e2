"""Which file a caller's ``model_output_path`` means, and which it must not."""

from __future__ import annotations

import posixpath
from pathlib import Path

from auxilium_rl.core.errors import InvalidRequest

__all__ = ["export_target"]

_FIELD = "model_output_path"
_MAX_COMPONENT = 255


def export_target(given: str, models_dir: Path, export_root: Path, reserved: tuple[Path, ...]) -> str:
    """The absolute ``….zip`` that ``given`` means.

    Back-slashes are slashes. A relative path joins ``export_root``; an absolute one must lie under it or under
    ``models_dir``. ``.zip`` is appended as text, because names hold dots.

    Args:
        reserved: folders of the store itself, where nobody exports to.

    Raises:
        InvalidRequest: the path leaves both folders or cannot be a file; names both.
    """
    path = given.replace("\\", "/")
    roots = f"it must stay inside {export_root} (MODEL_EXPORT_ROOT) or {models_dir} (MODELS_DIR)"
    if not path.isprintable():
        raise InvalidRequest.of(_FIELD, f"{given!r:.200} given; control characters are not accepted")
    if not path.strip("/. ") or path.endswith("/"):
        raise InvalidRequest.of(_FIELD, f"'{given}' given; it must end with a file's name, and {roots}")
    file = path if path.endswith(".zip") else f"{path}.zip"
    longest = max(file.split("/"), key=lambda part: len(part.encode()))
    if len(longest.encode()) > _MAX_COMPONENT:
        raise InvalidRequest.of(_FIELD, f"'{longest[:40]}…' has more than {_MAX_COMPONENT} bytes")
    target = Path(posixpath.normpath(posixpath.join(str(export_root), file)))
    real = target.parent.resolve() / target.name
    allowed = [root for root in (export_root, models_dir) if target.is_relative_to(root)]
    if not allowed or not any(real.is_relative_to(root.resolve()) for root in allowed):
        raise InvalidRequest.of(_FIELD, f"'{given}' given, which is {target}; {roots}")
    for folder in reserved:
        if folder not in {export_root, models_dir} and (target.is_relative_to(folder) or real.is_relative_to(folder)):
            raise InvalidRequest.of(_FIELD, f"'{given}' given, which is {target}; {folder} is the store's own folder")
    if target.is_dir():
        raise InvalidRequest.of(_FIELD, f"'{given}' given, but {target} is a folder")
    return str(target)
