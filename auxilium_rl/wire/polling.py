"""How gRPC waits in our own processes."""

from __future__ import annotations

import os

__all__ = ["POLLING", "poll_in_the_calling_thread"]

POLLING = {"GRPC_EXPERIMENTS": "-event_engine_client,-event_engine_listener"}
"""Environment of a process in which the thread that waits for a message reads it from the socket itself.

gRPC's event engine reads on threads of its own and hands every message over, which costs a unary call a third of its
time. Source: grpc's ``src/core/lib/experiments/experiments.yaml``.
"""


def poll_in_the_calling_thread() -> None:
    """Have this process wait so. Must come before its first import of ``grpc``; what the user has set stays."""
    for name, value in POLLING.items():
        os.environ.setdefault(name, value)
