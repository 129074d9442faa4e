"""Learners that are kept: `python -m benchmarks.keep WHAT...`, or all that need no data.

classes    one more class on 600, for every head: milliseconds, and whether anything compiled
order      any order and pieces, saved and loaded between them, against all at once
killed     SIGKILL while a learner is taught and saved, 20 times
fuzzed     100 damaged files
threads    1,000 requests of mixed sizes from 8 threads
streamed   100,000 images: rate and memory
rejection  AUROC of p(known) for each head, on images of unknown classes of glyphs
session    teach 20 classes x 20 images, ask, teach 5 more, ask, by the command line
"""

import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np

from lml_jax import heads, keep
from lml_jax.data.arrays import from_arrays, select
from lml_jax.data.glyphs import glyphs
from lml_jax.data.images import Pixels
from lml_jax.keep.encoders import network
from lml_jax.types import Batch, Dataset

DIM, EACH = 576, 20
CENTRES = np.random.default_rng(0).normal(size=(700, DIM)).astype(np.float32)


def some(classes: range, each: int = EACH, seed: int = 0) -> Dataset:
    """Gaussian classes of features."""
    rng = np.random.default_rng([seed, *classes])
    y = np.repeat(np.arange(len(classes)), each)
    x = CENTRES[np.array(classes)][y] + 4 * rng.normal(size=(len(y), DIM))
    names = [f"class {c}" for c in classes]
    return from_arrays(x.astype(np.float32), y.astype(np.int32), names=names)


def fresh(head: str) -> keep.Kept:
    return keep.new(keep.encoder("identity", {}), head, shape=(DIM,), dtype="float32")


class Compilations:
    """How many programs were compiled since it was made."""

    def __init__(self) -> None:
        self.count = 0
        jax.monitoring.register_event_duration_secs_listener(self._heard)

    def _heard(self, event: str, seconds: float, **_: object) -> None:
        self.count += event.endswith("backend_compile_duration")


def classes() -> None:
    compilations = Compilations()
    for head in heads.HEADS:
        kept = keep.teach(fresh(head), some(range(600)))
        kept = keep.teach(kept, some(range(600, 601)))
        before, times = compilations.count, []
        for c in range(601, 611):
            data = some(range(c, c + 1))
            begun = time.perf_counter()
            kept = keep.teach(kept, data)
            jax.block_until_ready(kept.state)
            times.append(1e3 * (time.perf_counter() - begun))
        print(
            f"{head:20s} one more class of {EACH} examples on {600}: median "
            f"{np.median(times):.1f} ms, max {max(times):.1f} ms, "
            f"{compilations.count - before} compilations",
            flush=True,
        )


def order() -> None:
    data, path = some(range(50)), Path(tempfile.mkdtemp()) / "mine.kept"
    y = np.repeat(np.arange(50), EACH)
    for head in heads.HEADS:
        at_once = keep.teach(fresh(head), data)
        kept = fresh(head)
        rows = np.random.default_rng(1).permutation(len(y))
        for part in np.array_split(rows, 10):
            kept = keep.teach(kept, Batch(data.x[part], y[part]), names=data.names)
            kept = keep.load(keep.save(path, kept))
        a, b = (keep.ask(one, data.x[:500]) for one in (at_once, kept))
        p, q = (one.probabilities[:, np.argsort(one.classes)] for one in (a, b))
        print(f"{head:20s} largest difference of a probability {abs(p - q).max():.1e}", flush=True)


TEACHING = """
import sys
import numpy as np
from lml_jax import keep
from lml_jax.types import Batch
path = sys.argv[1]
kept = keep.load(path)
rng = np.random.default_rng()
for i in range(10**9):
    x = rng.normal(size=(50, 576)).astype(np.float32)
    kept = keep.teach(kept, Batch(x, np.arange(50) % 5), names=list("abcde"))
    keep.save(path, kept)
    if i == 0:
        print("saved", flush=True)
"""


def killed(times: int = 20) -> None:
    path, rng = Path(tempfile.mkdtemp()) / "mine.kept", np.random.default_rng(0)
    keep.save(path, keep.teach(fresh("lda"), some(range(100))))
    whole, seen = 0, []
    for _ in range(times):
        command = [sys.executable, "-c", TEACHING, str(path)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(rng.uniform(0, 1))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        seen.append(keep.load(path).examples)
        whole += 1
    print(f"whole after SIGKILL: {whole} of {times}; examples {seen}")


def fuzzed(times: int = 100) -> None:
    path = Path(tempfile.mkdtemp()) / "mine.kept"
    content = keep.save(path, keep.teach(fresh("lda"), some(range(20)))).read_bytes()
    refused, unchanged = 0, 0
    for seed in range(times):
        rng, bad = np.random.default_rng(seed), bytearray(content)
        if seed % 4 == 0:
            bad = bad[: rng.integers(0, len(bad))]
        elif seed % 4 == 1:
            bad[int(rng.integers(0, len(bad)))] ^= 1 << int(rng.integers(0, 8))
        elif seed % 4 == 2:
            i = int(rng.integers(0, len(bad) - 500))
            bad[i : i + 500] = rng.bytes(500)
        else:
            bad = bytearray(rng.bytes(int(rng.integers(0, 10**5))))
        path.write_bytes(bytes(bad))
        try:
            unchanged += keep.load(path).examples == 20 * EACH
        except ValueError as error:
            refused += path.name in str(error)
    print(f"damaged files: {refused} of {times} refused by name, {unchanged} loaded as they were")


def threads(requests: int = 1000, workers: int = 8) -> None:
    kept = keep.ready(keep.teach(fresh("lda"), some(range(100))))
    x, rng = some(range(100), 4, seed=1).x, np.random.default_rng(0)
    sizes = [int(size) for size in np.exp(rng.uniform(0, np.log(400), requests))]
    for size in (1, 60, 400):
        keep.ask(kept, x[:size])
    alone = keep.ask(kept, x).probabilities
    compilations = Compilations()
    begun = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        found = list(pool.map(lambda size: keep.ask(kept, x[:size]).probabilities, sizes))
    seconds = time.perf_counter() - begun
    worst = max(abs(p - alone[: len(p)]).max() for p in found)
    print(
        f"{requests} requests ({sum(sizes)} examples) from {workers} threads: {seconds:.1f} s, "
        f"largest difference {worst:.1e}, {compilations.count} compilations"
    )


def memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def streamed(images: int = 100_000) -> None:
    from PIL import Image

    net = network("convnet", ())
    params = net.init(jax.random.key(0), np.zeros((1, 28, 28), np.uint8))
    pixels, folder = Pixels(), Path(tempfile.mkdtemp())
    kept = keep.new(keep.encoder("convnet", params), "nearest-mean", pixels=pixels)
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (60, 28, 28), np.uint8)
    kept = keep.ready(keep.teach(kept, Batch(x, np.arange(60) % 3), names=list("abc")))
    files = []
    for i in range(100):
        Image.fromarray(x[i % 60]).save(folder / f"{i}.png")
        files.append(folder / f"{i}.png")
    for _ in keep.ask_files(kept, files * 10):
        pass
    before, begun = memory(), time.perf_counter()
    n = sum(1 for _ in keep.ask_files(kept, (files[i % 100] for i in range(images))))
    seconds = time.perf_counter() - begun
    print(
        f"{n} image files in {seconds:.0f} s, {n / seconds:.0f} a second; peak memory "
        f"{before:.0f} MiB before, {memory():.0f} MiB after"
    )


def held_out_glyphs() -> tuple[Dataset, np.ndarray]:
    """Characters of scripts that the default embedding was not trained on, drawn once."""
    every = glyphs(size=28, per_class=35)
    held = np.flatnonzero(np.asarray(every.group) >= len(every.groups) - 5)
    return every, np.random.default_rng(0).permutation(held)


def rejection(known: int = 100, unknown: int = 100) -> None:
    from lml_jax.experiments.kept.start import default_begin

    begin = default_begin()
    every, held = held_out_glyphs()
    data = select(every, held[: known + unknown])
    x = np.asarray(data.x).reshape(known + unknown, 35, 28, 28)
    y = np.repeat(np.arange(known), 20)
    shown = x[:known, :20].reshape(-1, 28, 28)
    names = [f"class {c}" for c in range(known)]
    for head in heads.HEADS:
        kept = keep.new(begin.encoder, head, pixels=begin.pixels)
        kept = keep.ready(keep.teach(kept, Batch(shown, y), names=names))
        ours = keep.ask(kept, x[:known, 20:].reshape(-1, 28, 28))
        other = keep.ask(kept, x[known:, 20:].reshape(-1, 28, 28))
        right = np.array(ours.names) == np.repeat(names, 15)
        area = np.mean([(ours.known > score).mean() for score in other.known[:1500]])
        print(
            f"{head:20s} accuracy {100 * right.mean():.1f} %, AUROC {area:.3f}, rejected at 0.5: "
            f"{100 * (other.known < 0.5).mean():.0f} % of unknown, "
            f"{100 * (ours.known < 0.5).mean():.0f} % of known",
            flush=True,
        )


def session() -> None:
    from PIL import Image

    every, held = held_out_glyphs()
    root = Path(tempfile.mkdtemp())
    for i, c in enumerate(held[:25]):
        for j, row in enumerate(every.rows_of(c)[:35]):
            part = ("first" if i < 20 else "second") + ("" if j < 20 else "_test")
            folder = root / part / f"class {c}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(255 - every.x[row]).save(folder / f"{j}.png")
    command, total = [sys.executable, "-m", "lml_jax"], 0.0
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    for words in (
        ["teach", "mine.kept", "first"],
        ["ask", "mine.kept", "first_test", "--out", "a.csv"],
        ["teach", "mine.kept", "second"],
        ["ask", "mine.kept", "first_test", "second_test", "--out", "b.csv"],
    ):
        begun = time.perf_counter()
        subprocess.run(command + words, cwd=root, check=True)
        total += time.perf_counter() - begun
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
    lines = [line.split(",") for line in (root / "b.csv").read_text().splitlines()[1:]]
    right = np.mean([line[1] in line[0] for line in lines])
    print(
        f"session: {total:.1f} s in all, {cpu:.0f} s of CPU; {100 * right:.1f} % of the answers "
        "among 25 classes right"
    )


PARTS: dict[str, Callable[[], None]] = {
    "classes": classes,
    "order": order,
    "killed": killed,
    "fuzzed": fuzzed,
    "threads": threads,
    "streamed": streamed,
    "rejection": rejection,
    "session": session,
}


if __name__ == "__main__":
    print(f"load of the machine: {os.getloadavg()[0]:.1f}")
    for name in sys.argv[1:] or PARTS:
        PARTS[name]()
