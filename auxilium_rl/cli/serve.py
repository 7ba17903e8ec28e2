"""``auxilium serve``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["serve"]


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on (GRPC_HOST).")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one (GRPC_PORT).")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of everything that is kept (DATA_DIR).")] = None,
    config: Annotated[Path | None, typer.Option(help="Settings file, TOML or JSON (AUXILIUM_CONFIG).")] = None,
) -> None:
    """Run the server until Ctrl-C. Every other setting comes from the environment or the settings file."""
    from auxilium_rl.app import serve as run_server

    if config is not None:
        os.environ["AUXILIUM_CONFIG"] = str(config)
    given = {"grpc_host": host, "grpc_port": port, "data_dir": data_dir}
    raise typer.Exit(run_server({name: value for name, value in given.items() if value is not None}))
