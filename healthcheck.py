"""Asks a server's health, for a container's probe: exit 0 SERVING, 1 NOT_SERVING or unknown, 2 unreachable."""

from __future__ import annotations

import argparse
import os
import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc


def main(arguments: list[str] | None = None) -> int:
    """Ask once, or follow with ``--watch``; gives the exit code."""
    options = _parser().parse_args(arguments)
    address = options.address or _address(options.host, options.port)
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service=options.service)
        try:
            if not options.watch:
                return _tell(stub.Check(request, timeout=options.timeout).status, options, address)
            grpc.channel_ready_future(channel).result(timeout=options.timeout)
            told = None
            for answer in stub.Watch(request):
                if answer.status != told:
                    told = answer.status
                    _tell(told, options, address)
            return 2
        except grpc.FutureTimeoutError:
            _say(options, f"{address} does not answer within {options.timeout:g} s")
        except grpc.RpcError as error:
            _say(options, f"{address}: {error.code().name}: {error.details()}")
            return 1 if error.code() == grpc.StatusCode.NOT_FOUND else 2
        except KeyboardInterrupt:
            return 130
    return 2


def _address(host: str, port: int) -> str:
    """Where a server that listens at ``host`` is reached from the same machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "[::]": "::1"}.get(host, host)
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default=os.environ.get("GRPC_HOST", "127.0.0.1"))
    parser.add_argument("--port", type=int, default=os.environ.get("GRPC_PORT", "50051"))
    parser.add_argument("--address", help="host:port, instead of --host and --port")
    parser.add_argument("--service", default="", help="service name; empty asks for the whole server")
    parser.add_argument("--timeout", type=float, default=3.0, help="seconds")
    parser.add_argument("--verbose", action="store_true", help="say what was found")
    parser.add_argument("--watch", action="store_true", help="print every change until Ctrl-C")
    return parser


def _tell(status: int, options: argparse.Namespace, address: str) -> int:
    name = health_pb2.HealthCheckResponse.ServingStatus.Name(status)
    _say(options, f"{address} '{options.service}' {name}")
    return 0 if name == "SERVING" else 1


def _say(options: argparse.Namespace, text: str) -> None:
    if options.verbose or options.watch:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
