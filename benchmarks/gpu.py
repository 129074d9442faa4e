"""Everything a GPU is to show, in one command.

python benchmarks/gpu.py --out results [--minutes 9] [--parts ceilings,conv] [--tiny]

Each part runs in a process of its own and within a share of the time; one that fails or is too
slow costs the others nothing. Every measurement is appended to OUT/rows.jsonl as it is made. With
`--tiny` all parts run at the smallest sizes, on a CPU too: a test of the program, not a result.

ceilings   matrix products and a copy: what the card can do
agreement  every learner takes a few steps, compared with the CPU
conv       conv2d with a kernel per task: both lowerings, in tf32, f32 and bf16
maml       the 60,000 steps of MAML on Omniglot, 5-way 1-shot: rates, and what training reaches
torch      the same step in PyTorch
rates      steps of ProtoNet and GeMCL, and their published schedules
seeds      a lifelong run: ten seeds side by side against one
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple


class Part(NamedTuple):
    """A module of `_gpu`, its weight in the time, and how many processes share its work."""

    module: str
    weight: float
    processes: int = 1
    environment: dict[str, str] = {}  # noqa: RUF012  # never changed


_SHARED = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
PARTS = {
    "ceilings": Part("ceilings", 20),
    "agreement": Part("agreement", 90, 8, _SHARED),
    "conv": Part("convolutions", 110),
    "maml": Part("maml", 190),
    # Its JAX keeps off the card.
    "torch": Part("maml_torch", 30, 1, {"JAX_PLATFORMS": "cpu"}),
    "rates": Part("rates", 70),
    "seeds": Part("seeds", 50),
}
GRACE = 6.0  # seconds over its time after which a part is ended


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=9.0, help="for all parts together")
    parser.add_argument("--parts", default=",".join(PARTS), help="which, separated by commas")
    parser.add_argument("--tiny", action="store_true", help="the smallest sizes")
    parser.add_argument("--worker", default=None, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return work(*args.worker.split(":"), args)
    names = args.parts.split(",")
    if unknown := set(names) - set(PARTS):
        parser.error(f"unknown parts {sorted(unknown)}; known: {', '.join(PARTS)}")
    args.out.mkdir(parents=True, exist_ok=True)
    direct(names, args)


def direct(names: list[str], args: argparse.Namespace) -> None:
    """Run the parts one after another, and print a table."""
    end = time.monotonic() + 60 * args.minutes
    rows = args.out / "rows.jsonl"
    rows.unlink(missing_ok=True)
    with (args.out / "log.txt").open("wb") as log:
        waiting = start(names[0], args, log)
        for i, name in enumerate(names):
            running = waiting
            # The next part imports while this one measures.
            waiting = start(names[i + 1], args, log) if i + 1 < len(names) else []
            left = end - time.monotonic() - GRACE
            weights = [PARTS[other].weight for other in names[i:]]
            share = 1.0 if args.tiny else weights[0] / sum(weights)
            finish(name, running, left * share, rows)
    from _gpu import table

    print(table.of([json.loads(line) for line in rows.read_text().splitlines()]), flush=True)


def start(name: str, args: argparse.Namespace, log: Any) -> list[subprocess.Popen]:
    """The processes of a part, which wait for the word to begin."""
    part = PARTS[name]
    common = [sys.executable, __file__, "--out", str(args.out)] + ["--tiny"] * args.tiny
    here = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    count = 1 if args.tiny else part.processes
    # Parts share what the compiler has tuned, and a second run on a warm machine all it compiled.
    cache = {"JAX_COMPILATION_CACHE_DIR": str(Path(tempfile.gettempdir()) / "lml_jax_gpu_cache")}
    return [
        subprocess.Popen(
            [*common, "--worker", f"{name}:{k}:{count}"],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env={**cache, **os.environ, **part.environment, "PYTHONPATH": path},
        )
        for k in range(count)
    ]


def finish(name: str, running: list[subprocess.Popen], seconds: float, rows: Path) -> None:
    """Give the word, wait, and end what has not ended by itself."""
    begun = time.monotonic()
    for process in running:
        try:
            process.stdin.write(f"{seconds}\n".encode())  # type: ignore[union-attr]
            process.stdin.close()  # type: ignore[union-attr]
        except BrokenPipeError:
            pass  # it has died; its exit code says so below
    codes = []
    for process in running:
        try:
            codes.append(process.wait(max(0.1, begun + seconds + GRACE - time.monotonic())))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            codes.append("ended: out of time")
    row = {"part": "whole", "what": name, "seconds": time.monotonic() - begun, "given": seconds}
    with rows.open("a") as file:
        file.write(json.dumps(row | {"exit": codes}) + "\n")
    print(f"{name}: {row['seconds']:.0f} s of {seconds:.0f} s, exit {codes}", flush=True)


def work(name: str, place: str, count: str, args: argparse.Namespace) -> None:
    """One process of a part: import, wait for the number of seconds, measure."""
    module = importlib.import_module(f"_gpu.{PARTS[name].module}")
    from _gpu.common import Run, about

    seconds = float(sys.stdin.readline())
    run = Run(name, args.out, seconds, tiny=args.tiny)
    if name == "ceilings":
        run.write(what="environment", **about())
    if PARTS[name].processes > 1:
        module.main(run, (int(place), int(count)))
    else:
        module.main(run)
    sys.stdout.flush()
    # Threads that still compile would keep the process.
    os._exit(0)


if __name__ == "__main__":
    main()
