"""The stand-ins for rlbench and PyRep in tests and in the simulator's process.

The process runs the real thing without the check of the installation: the fork server keeps the environment
it was started with, which a test cannot change any more. This module does not import pytest, so that a child
need not either.
"""

import sys
from pathlib import Path

import envs.rlbench.process
import envs.rlbench.simulator

FAKES = Path(__file__).parent / "fake_rlbench"
_serve = envs.rlbench.process._serve


def serve(*arguments):
    envs.rlbench.simulator.check = lambda **_: None
    _serve(*arguments)


def forget() -> None:
    """Let the next import of the packages look for them again."""
    for name in [name for name in sys.modules if name.partition(".")[0] in ("rlbench", "pyrep")]:
        del sys.modules[name]
