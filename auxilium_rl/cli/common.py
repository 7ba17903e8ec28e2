"""What the commands share: exit codes, the connection, how errors are told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any, NoReturn

import typer

__all__ = ["DEFAULT_ADDRESS", "EXIT", "Address", "JsonOutput", "as_json", "connected", "fail", "pair"]


class EXIT:
    """Exit codes of every command."""

    OK = 0
    FAILED = 1
    """The run failed, or the service is not serving."""
    USAGE = 2
    """The command or a value in it is wrong."""
    UNREACHABLE = 3
    """No server answered."""
    NOT_FOUND = 4
    """There is no such run."""
    WARNINGS = 5
    """Nothing is broken, but something should be looked at."""
    INTERRUPTED = 130
    """Ctrl-C; the run goes on."""


Address = Annotated[str, typer.Option("--address", envvar="AUXILIUM_ADDRESS", help="Server, as host:port.")]
JsonOutput = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DEFAULT_ADDRESS = "127.0.0.1:50051"


def fail(message: str, code: int) -> NoReturn:
    """Say what is wrong on standard error and end with ``code``."""
    typer.echo(f"auxilium: {message}", err=True)
    raise typer.Exit(code)


@contextmanager
def connected(address: str, connect_timeout: float = 5.0) -> Iterator[Any]:
    """A client; its errors become messages and exit codes."""
    from auxilium_rl.client import ActError, Client, ClientError, InvalidArgument, NotFound, ServerUnavailable

    with Client(address, connect_timeout=connect_timeout) as client:
        try:
            yield client
        except InvalidArgument as error:
            lines = [f"  {field}: {text}" for field, text in error.violations.items()]
            fail("\n".join(["this cannot be accepted:", *lines]) if lines else str(error), EXIT.USAGE)
        except NotFound as error:
            fail(str(error), EXIT.NOT_FOUND)
        except ServerUnavailable as error:
            fail(str(error), EXIT.UNREACHABLE)
        except ActError as error:
            fail(str(error), EXIT.NOT_FOUND if "not found" in str(error) else EXIT.USAGE)
        except ClientError as error:
            fail(str(error), EXIT.FAILED)


def as_json(value: Any) -> str:
    """A dataclass, or a list of them, as JSON."""
    data = [asdict(item) for item in value] if isinstance(value, list) else asdict(value)
    return json.dumps(data, indent=1, default=lambda v: v.isoformat() if isinstance(v, datetime) else str(v))


def pair(text: str) -> tuple[str, Any]:
    """A ``key=value`` of the command line; the value is JSON, or else text."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        fail(f"-p {text}: key=value is accepted", EXIT.USAGE)
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
