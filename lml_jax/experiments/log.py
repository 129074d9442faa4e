"""Metrics of a run as it goes: rows of numbers, for a file and for a callback."""

import json
from pathlib import Path
from typing import Protocol

import numpy as np

from lml_jax.experiments.record import Record
from lml_jax.metrics import to_json
from lml_jax.types import Metrics

LOG = "log.jsonl"


class Log(Protocol):
    """Told a row after each chunk of updates.

    A row holds `run` (which part of the run: a learner and its seed, or a phase), `step` (updates
    done), `task` in a stream, and the mean of each metric over the chunk.
    """

    def __call__(self, row: Record, /) -> None: ...  # noqa: D102


def ignore(row: Record) -> None:
    """A `Log` that does nothing."""


def to_file(folder: Path, log: Log = ignore) -> Log:
    """A `Log` that appends each row to `log.jsonl` in `folder`, then tells `log`.

    A run that is resumed appends to the same file. It may repeat the rows since its last
    checkpoint: of two rows of one `run` and `step`, the later one counts.

    Args:
        folder: of the run.
        log: a callback, such as one that writes to TensorBoard or to Weights & Biases.

    Example:
        >>> import tempfile
        >>> folder, seen = Path(tempfile.mkdtemp()), []
        >>> to_file(folder, seen.append)({"run": "memory_seed0", "step": 25, "loss": 0.5})
        >>> (folder / "log.jsonl").read_text()
        '{"run": "memory_seed0", "step": 25, "loss": 0.5}\\n'
    """

    def write(row: Record) -> None:
        with (folder / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(to_json(row), allow_nan=False) + "\n")
        log(row)

    return write


def means(metrics: Metrics) -> Record:
    """The mean of each metric of a chunk [updates]; None where it is undefined throughout.

    Example:
        >>> means({"loss": np.array([1.0, 3.0]), "bad_step": np.array([-1, -1])})
        {'loss': 2.0}
    """
    rows = {name: np.asarray(value, float) for name, value in metrics.items()
            if np.issubdtype(np.asarray(value).dtype, np.floating)}  # fmt: skip
    found = {name: value[~np.isnan(value)] for name, value in rows.items()}
    return {name: float(value.mean()) if value.size else None for name, value in found.items()}
