"""One contestant in a process of its own: takes numbers of steps on stdin, answers with seconds."""

import json
import os
import re
import resource
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.contestants import WORKLOADS
from lml_jax import cpu


def main(workload: str, contestant: str) -> None:
    """Say what it is, then time as many steps as each line asks for."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is not an answer

    def reply(**answer: Any) -> None:
        print(json.dumps(answer), file=replies, flush=True)

    cpu.keep_freed_memory()  # for every contestant: all of them gain
    work = WORKLOADS[workload]
    try:
        run = work.contestants[contestant](**work.sizes)
        begun = time.perf_counter()
        losses = [run(1)]
        first = time.perf_counter() - begun
        losses += [run(1)]
        run(work.steps)  # what is compiled for a turn of this length is no part of a turn
    except Exception as error:  # an optional peer may fail to import in any way
        reply(missing=f"{type(error).__name__}: {error}")
        return
    reply(first=first, losses=losses)
    for line in sys.stdin:
        begun = time.perf_counter()
        run(int(line))
        seconds = time.perf_counter() - begun
        reply(seconds=seconds, peak_kib=peak_kib())


def peak_kib() -> int:
    """The largest resident size of this process, in KiB."""
    status = Path("/proc/self/status")
    if status.exists():  # where `ru_maxrss` begins with what the parent had
        return int(re.search(r"VmHWM:\s*(\d+) kB", status.read_text())[1])  # type: ignore[index]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (
        1024 if sys.platform == "darwin" else 1
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
