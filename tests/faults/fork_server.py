"""A process that has imported the package once and forks a child for each disturbed run: 40 ms a run instead of 400.

    with PythonChild("from tests.faults.fork_server import serve; serve()") as server:
        server.send({...}); server.read()

The child waits until strace holds it, runs its scenario, and ends. Driven by disturbing.py.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import traceback
from typing import Any

from tests.faults.disturbed_child import run_scenario
from tests.faults.processes import emit, receive

RUN_S_MAX = 30
"""A disturbed run takes a tenth of a second; one that hangs is killed and reported."""
_PR_SET_PTRACER, _PTRACER_ANY = 0x59616D61, ctypes.c_ulong(-1)


def serve() -> None:
    """Answer one request after the other until the test is gone."""
    while True:
        emit(_run(receive()))


def _run(request: dict[str, Any]) -> dict[str, Any]:
    """request: scenario, root, marks, strace (its arguments). The answer: status (negative: the signal), stderr."""
    ready, go = os.pipe()
    child = os.fork()
    if child == 0:
        _be_child(request, ready, go)
    os.close(ready)
    tracer = subprocess.Popen(
        ["strace", *request["strace"], "-p", str(child)], stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    )
    assert tracer.stderr is not None
    said = tracer.stderr.readline()
    if "attached" not in said:
        os.kill(child, signal.SIGKILL)
    os.close(go)
    _, status = os.waitpid(child, 0)
    tracer.wait(RUN_S_MAX)
    said += tracer.stderr.read()
    tracer.stderr.close()
    return {"status": os.waitstatus_to_exitcode(status), "said": said}


def _be_child(request: dict[str, Any], ready: int, go: int) -> None:
    """The forked child: never returns."""
    status = 1
    try:
        os.close(go)
        ctypes.CDLL(None).prctl(_PR_SET_PTRACER, _PTRACER_ANY, 0, 0, 0)
        os.read(ready, 1)  # ends as the server closes its end
        os.close(ready)
        signal.alarm(RUN_S_MAX)
        run_scenario(request["scenario"], request["root"], request["marks"])
        status = 0
    except BaseException:
        with open(request["marks"] + ".error", "w", encoding="utf-8") as file:
            traceback.print_exc(file=file)
    finally:
        sys.stderr.flush()
        os._exit(status)
