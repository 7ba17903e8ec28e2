"""Compiles what an agent does at every step (mypyc), where a C compiler and Python's headers are.

Elsewhere the same files are interpreted: they do the same, and take longer.
"""

import sys

from mypyc.build import mypycify
from setuptools import setup

_EVERY_STEP = [f"auxilium_rl/agent/{name}.py" for name in ("agent", "backlog", "episode", "seeing", "shelf")]
# mypy has looked at types already (``make check``): what these import is not looked at again, which takes a minute.
_OPTIONS = ["--config-file=", "--ignore-missing-imports", "--follow-imports=skip"]


def _extensions() -> list:
    if {"egg_info", "dist_info"} & set(sys.argv):
        return []  # these only ask for names
    files = [*_OPTIONS, *_EVERY_STEP]
    made = mypycify(files, opt_level="2", debug_level="0", group_name="auxilium_rl", target_dir="build/compiled")
    for extension in made:
        extension.optional = True
    return made


setup(ext_modules=_extensions())
