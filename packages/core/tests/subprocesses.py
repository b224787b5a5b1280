"""Runs programs in a Python of their own."""

from __future__ import annotations

import subprocess
import sys
import textwrap


def run(program: str) -> None:
    """Run a program, and raise with what it said if it failed."""
    command = [sys.executable, "-X", "faulthandler", "-c", textwrap.dedent(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
