"""The race: contestants take turns, each in its own process, and are compared repeat by repeat."""

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.contestants import OURS, WORKLOADS
from lml_jax import plots
from lml_jax.checks import known
from lml_jax.experiments.folder import opened
from lml_jax.experiments.record import versions, write_metrics


class Process:
    """A contestant that waits for its turns."""

    def __init__(self, workload: str, contestant: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", workload, contestant],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=Path(__file__).parents[1],
        )
        self.hello = self._answer()

    def turn(self, steps: int) -> dict[str, Any]:
        """{"seconds", "peak_kib"} of so many steps, or {"missing"} where the process has died."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # of the dead; `_answer` says so
            self.process.stdin.write(f"{steps}\n")
            self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End it."""
        self.process.kill()
        with suppress(BrokenPipeError):  # of a turn that the dead never read
            self.process.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        code = self.process.wait()
        killed = ": killed, most often for want of memory" if code == -signal.SIGKILL else ""
        return {"missing": f"its process ended without a word, exit code {code}{killed}"}


def race(name: str, *, repeats: int = 10, progress: bool = True) -> dict[str, Any]:
    """Rates of every contestant of a workload, and ratios to this library's.

    Turns are interleaved, so that a machine that slows down slows all; a ratio is of two turns of
    one repeat. The first step of each, with its compilation, is apart, and so is memory: the
    largest resident size of its own process.

    Args:
        name: of the workload, in `contestants.WORKLOADS`.
        repeats: turns of each, >= 1.
        progress: show a bar.

    Returns:
        A record: `rates` by contestant (median, quartiles, seconds of the first step, peak in MiB,
        the losses of the first two steps), `ratios` (ours / theirs: median, quartiles) and
        `missing`, with the reason.

    Raises:
        ValueError: for an unknown workload, or repeats below 1.
        OSError: where this library itself fails, with the reason.
    """
    work = WORKLOADS[known(name, WORKLOADS, what="workload")]
    _check(repeats)
    with ExitStack() as stack:
        running, missing = {}, {}
        for contestant in work.contestants:
            process = Process(name, contestant)
            stack.callback(process.close)
            if "missing" in process.hello:
                missing[contestant] = process.hello["missing"]
            else:
                running[contestant] = process
        turns: dict[str, list[dict[str, Any]]] = {contestant: [] for contestant in running}
        for _ in tqdm(range(repeats), disable=not progress, desc=name):
            for contestant in list(turns):
                answer = running[contestant].turn(work.steps)
                if "missing" in answer:
                    missing[contestant] = answer["missing"]
                    del turns[contestant]
                else:
                    turns[contestant].append(answer)
        if OURS in missing:
            raise OSError(f"{OURS} cannot run {name}: {missing[OURS]}")
    count = work.steps * work.per_step
    rates = {c: np.array([count / t["seconds"] for t in own]) for c, own in turns.items()}
    return {
        "workload": name,
        "about": work.about,
        "unit": work.unit,
        "repeats": repeats,
        "rates": {
            c: {
                **_summary(rates[c]),
                "first_step_seconds": running[c].hello["first"],
                "peak_mib": max(turn["peak_kib"] for turn in own) / 1024,
                "losses": running[c].hello["losses"],
            }
            for c, own in turns.items()
        },
        "ratios": {c: ratio(rates, c) for c in rates if c != OURS},
        "missing": missing,
    }


def ratio(rates: dict[str, np.ndarray], other: str) -> dict[str, float]:
    """Our rate over theirs, repeat by repeat: median and quartiles."""
    return _summary(rates[OURS] / rates[other])


def _check(repeats: int) -> None:
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")


def _summary(values: np.ndarray) -> dict[str, float]:
    low, middle, high = np.percentile(values, [25, 50, 75])
    return {"median": middle, "low": low, "high": high}


def run_races(
    names: Iterable[str], out: str | Path, *, repeats: int = 10, progress: bool = True
) -> dict[str, Any]:
    """Race after race, into `out`: `metrics.json` after each, `rates.png` where there are peers.

    Args:
        names: workloads, in order.
        out: a folder that is absent or empty.
        repeats: as in `race`.
        progress: show bars.

    Returns:
        The record written.

    Raises:
        ValueError: as `race`, before anything is written.
        FileExistsError: for a folder that holds something.
    """
    names = [known(name, WORKLOADS, what="workload") for name in names]
    _check(repeats)
    with opened(out) as folder:
        record: dict[str, Any] = {"cores": os.cpu_count(), "versions": versions(), "races": []}
        for name in names:
            record["races"].append(race(name, repeats=repeats, progress=progress))
            write_metrics(folder, record)
        if any(found["ratios"] for found in record["races"]):
            plots.save(plots.rates(record["races"], ours=OURS), folder / "rates.png")
    return record


def table(record: dict[str, Any]) -> str:
    """Rates and ratios of every race."""
    lines = [f"{record['versions']['device']}, {record['cores']} cores"]
    for found in record["races"]:
        lines += ["", found["about"], f"medians of {found['repeats']} interleaved repeats"]
        lines.append(
            f"{'':18s}{found['unit']:>14s}{'first step':>12s}{'peak':>10s}   ours / theirs"
        )
        for contestant, own in found["rates"].items():
            ratio = found["ratios"].get(contestant)
            lines.append(
                f"{contestant:18s}{own['median']:14.4g}{own['first_step_seconds']:10.1f} s"
                f"{own['peak_mib']:6.0f} MiB"
                + (
                    f"{ratio['median']:9.2f} ({ratio['low']:.2f} .. {ratio['high']:.2f})"
                    if ratio
                    else ""
                )
            )
        lines += [f"{c:18s} not here: {why}" for c, why in found["missing"].items()]
    return "\n".join(lines)


def main() -> None:
    """The command line of the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.race", description=__doc__)
    parser.add_argument("workloads", nargs="*", help="names; all of them by default")
    parser.add_argument("--list", action="store_true", help="list the workloads and exit")
    parser.add_argument("--repeats", type=int, default=10, help="repeats of each implementation")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="a new folder")
    options = parser.parse_args()
    if options.list:
        print("\n".join(f"{name}\n    {work.about}" for name, work in WORKLOADS.items()))
        return
    try:
        record = run_races(options.workloads or WORKLOADS, options.out, repeats=options.repeats)
    except (ValueError, OSError) as error:
        sys.exit(f"benchmarks.race: {error}")
    print(table(record))
    print(f"metrics.json and, where there are other libraries, rates.png are in {options.out}")


if __name__ == "__main__":
    main()
