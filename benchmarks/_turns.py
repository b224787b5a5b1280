"""Processes that each run one variant on request, so that variants take turns."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
from typing import TYPE_CHECKING, Any

from _report import HERE

if TYPE_CHECKING:
    from collections.abc import Callable


class Failure(Exception):  # noqa: N818  # a result, not an error of a script
    """Why something does not run."""


class Worker:
    """A process that first describes itself, then runs once for each line that it is sent, and reports the seconds.

    Parameters
    ----------
    python : str
        Its interpreter.
    *arguments : str
        A script that calls `serve`, and what that is to know.
    """

    def __init__(self, python: str, *arguments: str) -> None:
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115  # it is closed with the process, in `stop`
        self._process = subprocess.Popen(
            [python, "-W", "ignore", *arguments],
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
        )

    def answer(self) -> dict[str, Any]:
        """Return its next answer.

        Raises
        ------
        Failure
            If it has nothing to tell but why it stopped.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        told: dict[str, Any] = json.loads(line) if line else {"failure": self._why()}
        if "failure" in told:
            self.stop()
            raise Failure(told["failure"])
        return told

    def seconds(self) -> float:
        """Let it run once, and return how long it took."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self.answer()["seconds"])

    def stop(self) -> None:
        """End it."""
        self._process.communicate()
        self._said.close()

    def _why(self) -> str:
        status = self._process.wait()
        if status < 0:
            return f"the process crashed ({signal.Signals(-status).name})"
        self._said.seek(0)
        lines = [line for line in self._said.read().splitlines() if line.strip()]
        return lines[-1] if lines else f"exit status {status}, without output"


def environment() -> dict[str, str]:
    """Return the environment of every process: one thread, no network, and the same timm for all."""
    # Ahead of the peers' own packages: AnyCapture's wheel brings an old timm of its own.
    lent = [sysconfig.get_path("purelib"), *map(str, sorted(HERE.parent.glob("packages/*/src")))]
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(lent)}


def serve(prepare: Callable[[], tuple[dict[str, Any], Callable[[], float]]]) -> None:
    """Run as the process: report what `prepare` returns, then the seconds of a run for each line of input."""
    # What libraries print must not mix with the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(value: dict[str, Any]) -> None:
        print(json.dumps(value), file=answers, flush=True)

    try:
        told, run = prepare()
        answer(told)
        for _ in sys.stdin:
            answer({"seconds": run()})
    except Exception as error:  # noqa: BLE001  # why it does not run is a result as well
        said = str(error).strip().splitlines()
        answer({"failure": f"{type(error).__name__}: {said[0] if said else ''}"})
