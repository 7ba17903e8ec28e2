"""``python -m bench [name …]``: runs every benchmark, or those named; fails when a bar is missed."""

from __future__ import annotations

import sys

from bench import acting, durability, experience, footprint, peers, policies, remote_training, simulators, training
from bench.measure import report

GROUPS = {
    "footprint": footprint.figures,
    "acting": acting.figures,
    "policies": policies.figures,
    "training": training.figures,
    "durability": durability.figures,
    "experience": experience.figures,
    "simulators": simulators.figures,
    "peers": peers.figures,
    "remote_training": remote_training.figures,
}


def main() -> int:
    names = sys.argv[1:] or list(GROUPS)
    unknown = [name for name in names if name not in GROUPS]
    if unknown:
        print(f"no benchmark {', '.join(unknown)}; these are: {', '.join(GROUPS)}")
        return 2
    return 0 if report([figure for name in names for figure in GROUPS[name]()]) else 1


if __name__ == "__main__":
    sys.exit(main())
