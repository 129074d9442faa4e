"""One contestant in a process of its own: takes numbers of steps on stdin, answers with seconds."""

import json
import os
import resource
import sys
import time
from typing import Any

from lml_jax import cpu
from lml_jax.bench.contestants import WORKLOADS


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
    except Exception as error:  # an optional peer may fail to import in any way
        reply(missing=f"{type(error).__name__}: {error}")
        return
    begun = time.perf_counter()
    losses = [run(1)]
    first = time.perf_counter() - begun
    losses += [run(1)]
    reply(first=first, losses=losses)
    for line in sys.stdin:
        begun = time.perf_counter()
        run(int(line))
        seconds = time.perf_counter() - begun
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        reply(seconds=seconds, peak_kib=peak)


if __name__ == "__main__":
    main(*sys.argv[1:])
