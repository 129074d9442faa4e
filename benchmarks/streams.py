"""What streams as data cost: program size, memory of large streams, a sweep as one program.

python -m benchmarks.streams [program] [large] [disk] [sweep]

`program` lowers one lifelong step over 1,000 and over 50,000 images of 32x32x3 and compares the
programs. `large` runs a class-incremental stream of 64 classes x 600 images of 84x84x3 (813 MB) and
`disk` one of 20 GB in a sparse memory-mapped file; both print the peak memory of the process
(on Linux), so give each a process of its own. `sweep` runs 20 seeds x 5 learning rates of a small
learner as one program, and some of the same runs one after another.
"""

import contextlib
import re
import sys
import tempfile
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lml_jax as lml
from lml_jax.data.stream import Stream

KEY = jax.random.key(0)
SEEDS, RATES = 20, (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)


def blobs(x: np.ndarray, classes: int) -> lml.Dataset:
    """`x` [n, ...] as so many classes in turn; nothing is read."""
    return lml.from_arrays(x, np.arange(len(x)) % classes)


def stream_of(x: np.ndarray, *, classes: int, tasks: int, train: int) -> Stream:
    """A class-incremental stream of all classes."""
    return lml.class_incremental(
        blobs(x, classes), tasks=tasks, classes_per_task=classes // tasks, seed=0,
        train_per_class=train,
    )  # fmt: skip


def learner_of(stream: Stream, rate: float | jax.Array = 1e-2) -> lml.LifelongLearner:
    """Fine-tuning of a small perceptron."""
    few_shot = lml.maml(lml.nets.mlp([32], stream.classes), optax.sgd(0.01), steps=1)
    return lml.finetune(few_shot, optax.adam(rate), lml.label_space_of(stream))


def program() -> None:
    """The size of one step's program, and its compile time."""
    for n in (1_000, 50_000):
        x = np.random.default_rng(0).integers(0, 255, (n, 32, 32, 3), np.uint8)
        stream = jax.tree.map(jnp.asarray, stream_of(x, classes=10, tasks=5, train=n // 20))
        learner = learner_of(stream)

        def step(state, stream, i, key, learner=learner):  # type: ignore[no-untyped-def]
            return learner.step(state, stream.episodes(i, key), key)

        state = learner.init(KEY, stream.x[:1])
        lowered = jax.jit(step).lower(state, stream, 0, KEY)
        begun = time.perf_counter()
        lowered.compile()
        seconds = time.perf_counter() - begun
        print(f"{n} images: program of {len(lowered.as_text())} characters, {seconds:.2f} s")


class Peak:
    """The most memory of this process while it is entered, in MB, looked at every 20 ms.

    Without the pages of files: those of a memory-mapped one stay as long as there is room.
    """

    def __enter__(self) -> "Peak":
        self.before = self.most = self.now()
        self._done = threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True)
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._watch.join()

    def _look(self) -> None:
        while not self._done.wait(0.02):
            self.most = max(self.most, self.now())

    @staticmethod
    def now() -> float:
        (line,) = re.findall(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
        return int(line) / 1024


def large() -> None:
    """813 MB in host memory."""
    x = np.random.default_rng(0).integers(0, 255, (64 * 600, 84, 84, 3), np.uint8)
    run_one(stream_of(x, classes=64, tasks=16, train=500), x.nbytes)


def disk() -> None:
    """20 GB on disk, of which a run reads one task at a time."""
    with tempfile.TemporaryDirectory() as folder:
        shape = (960_000, 84, 84, 3)
        path = Path(folder) / "x.dat"
        x = np.memmap(path, np.uint8, "w+", shape=shape)  # sparse: it takes no room
        run_one(stream_of(x, classes=640, tasks=160, train=1200), x.nbytes, tasks=3)


def run_one(stream: Stream, size: int, tasks: int | None = None) -> None:
    """Run a stream, or its first tasks, and print the peak memory of the process."""
    begun = time.perf_counter()
    rows: list[int] = []

    class Enough(Exception):
        pass

    def on_row(row: int, so_far: object) -> None:
        rows.append(row)
        if row == tasks:
            raise Enough

    with Peak() as memory, contextlib.suppress(Enough):
        lml.run_stream(learner_of(stream), stream, KEY, steps=2, on_row=on_row)
    image = int(np.prod(stream.x.shape[1:]))
    print(
        f"{size / 1e6:.0f} MB, {rows[-1]} of {stream.tasks} tasks in "
        f"{time.perf_counter() - begun:.0f} s: peak {memory.most:.0f} MB "
        f"({memory.before:.0f} before the run); one task {stream.train_size * image / 1e6:.0f} MB"
    )


def sweep() -> None:
    """20 seeds x 5 rates at once, and three of them one after another."""
    rng = np.random.default_rng(0)
    y = np.arange(400) % 20
    x = (3 * rng.normal(size=(20, 16))[y] + rng.normal(size=(400, 16))).astype(np.float32)
    data = lml.from_arrays(x, y)
    stream = jax.tree.map(jnp.asarray, lml.class_incremental(
        data, tasks=10, classes_per_task=2, seed=0, train_per_class=15, shots=3, queries=3
    ))  # fmt: skip
    options = {"steps": 100, "chunk": 100}

    def of(rate: jax.Array, key: jax.Array) -> jax.Array:
        return lml.program(learner_of(stream, rate), **options)(stream, key).R

    keys = jax.random.split(KEY, SEEDS)
    begun = time.perf_counter()
    mapped = jax.jit(jax.vmap(jax.vmap(of, (None, 0)), (0, None)))(jnp.array(RATES), keys)
    jax.block_until_ready(mapped)
    together = time.perf_counter() - begun
    alone, gap = [], 0.0
    for i, rate in ((0, RATES[0]), (2, RATES[2]), (4, RATES[4])):
        begun = time.perf_counter()
        run = lml.run_stream(learner_of(stream, rate), stream, keys[i], scan=True, **options)
        alone.append(time.perf_counter() - begun)
        gap = max(gap, float(np.nanmax(np.abs(run.R - mapped[i, i]))))
    count = SEEDS * len(RATES)
    print(
        f"{count} runs as one program: {together:.1f} s; one after another {np.mean(alone):.2f} s "
        f"each, {count * np.mean(alone):.0f} s for all (from {len(alone)}): "
        f"{count * np.mean(alone) / together:.0f} x; largest difference of R {gap:.1e}"
    )


if __name__ == "__main__":
    for name in sys.argv[1:] or ["program", "large", "disk", "sweep"]:
        {"program": program, "large": large, "disk": disk, "sweep": sweep}[name]()
