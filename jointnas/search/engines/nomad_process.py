"""NOMAD in a separate process: it keeps global state, writes to stdout and loses exceptions of its callbacks.

Run as a script. Every message is a line of JSON: the problem on stdin; blocks of points on stdout, each answered on stdin by the outputs
of every point (null for a failed evaluation); at the end the stop reason. It ends when stdin does.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from typing import Any, TextIO


def main() -> None:
    """Optimise the problem on stdin."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # where NOMAD prints
    problem = json.loads(sys.stdin.readline())
    import PyNomad

    def evaluate(block: Any) -> list[bool]:
        try:
            return _evaluate(block, replies)
        except BaseException:  # NOMAD would turn it into an interruption
            traceback.print_exc()
            os._exit(1)

    result = PyNomad.optimize(evaluate, problem["start"], problem["lower"], problem["upper"], problem["parameters"])
    _send(replies, str(result.get("stop_reason", "no reason")))


def _evaluate(block: Any, replies: TextIO) -> list[bool]:
    points = [block.get_x(i) for i in range(block.size())]
    _send(replies, [[point.get_coord(j) for j in range(point.size())] for point in points])
    line = sys.stdin.readline()
    if not line:
        os._exit(0)
    outputs = json.loads(line)
    for point, output in zip(points, outputs, strict=True):
        if output is not None:
            point.setBBO(" ".join(map(repr, output)).encode())
    return [output is not None for output in outputs]


def _send(replies: TextIO, message: Any) -> None:
    replies.write(json.dumps(message) + "\n")
    replies.flush()


if __name__ == "__main__":
    main()
