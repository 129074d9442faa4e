"""Checkpoints of a whole run, so that an interrupted run can be resumed.

A run is one pytree: parameters, optimiser, bank, generator, keys, cursor, scores so far. Each
checkpoint is one file of plain arrays, see `storage`, with the configuration that made it.
"""

import json
import re
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import jax

from lml_jax import storage
from lml_jax._ownership import OWNER as OWNER
from lml_jax._ownership import owned as owned

Config = dict[str, Any]


class Keeper(NamedTuple):
    """How a run saves checkpoints."""

    start: Callable[[Any], Any]  # (run) -> the run as it was last saved, or `run` if it never was
    # (updates done, run, score=None) -> None: to be called where a run could be resumed; the
    # checkpoint of the highest score is kept when newer ones replace the others.
    save: Callable[..., None]


FORGETFUL = Keeper(start=lambda run: run, save=lambda step, run, score=None: None)


class Stopped(Exception):
    """A signal ended the run, after it was saved; the message says where."""


@contextmanager
def keeper(
    folder: str | Path, *, config: Config, keep: int = 3, every: float = 60.0
) -> Iterator[Keeper]:
    """Save checkpoints of a run in `folder`, and resume from there.

    Checkpoints appear whole or not at all. Each is written in the background and read back before
    an older one is removed; the last `keep` stay, and the one of the highest score. However the
    block ends, the last state handed to `save` is written: SIGTERM and Ctrl-C do so and raise
    `Stopped`; a second signal does not wait for that.

    Args:
        folder: of the checkpoints of this run alone, made if it is absent; see `owned`.
        config: what the run depends on, as json could hold it; another one is refused.
        keep: number of checkpoints that stay, >= 1.
        every: minimum seconds between checkpoints; 0 for one at every call.

    Yields:
        A `Keeper`.

    Raises:
        NotImplementedError: in a run of many processes, which would have to agree on when to save.
        BlockingIOError: if another process owns the folder.
        ValueError: for keep below 1 or every below 0; in `start`, where there are checkpoints and
            none can be used, naming each with the reason.
        OSError: in `save` or at the end, if a checkpoint cannot be written.
        Stopped: after SIGTERM or Ctrl-C.

    Example:
        >>> import tempfile
        >>> import jax.numpy as jnp
        >>> folder = tempfile.mkdtemp()
        >>> for _ in range(2):
        ...     with keeper(folder, config={"seed": 0}) as checkpoints:
        ...         run = checkpoints.start({"w": jnp.zeros(2), "step": 0})
        ...         run = {"w": run["w"] + 1, "step": run["step"] + 1}
        ...         checkpoints.save(run["step"], run)
        ...     print(run["w"].tolist(), run["step"])
        [1.0, 1.0] 1
        [2.0, 2.0] 2
    """
    if not (keep >= 1 and every >= 0):
        raise ValueError(
            f"keep must be at least 1 and every at least 0 seconds, got {keep} and {every}"
        )
    if jax.process_count() > 1:
        raise NotImplementedError(
            f"checkpoints are of runs of one process, expected 1, got {jax.process_count()}: save "
            "with orbax.checkpoint.CheckpointManager, which knows of many hosts"
        )
    config = json.loads(json.dumps(config))
    with owned(folder) as folder, _Writer(folder, keep, config) as writer:
        signals = _Signals()
        pending: list[tuple[int, Any, float | None]] = []
        last = -float("inf")

        def write() -> None:
            nonlocal last
            writer.write(*pending.pop())
            last = time.monotonic()

        def save(step: int, run: Any, score: float | None = None) -> None:
            with signals.held():
                pending[:] = [(step, run, score)]
                if time.monotonic() - last >= every:
                    write()

        def start(run: Any) -> Any:
            return _restore(writer, run, config)

        try:
            with signals:
                yield Keeper(start, save)
        except KeyboardInterrupt:
            if signals.received is None:
                raise
        finally:
            if pending:
                write()
            writer.wait()
        if signals.received is not None:
            steps = writer.steps()
            saved = f"saved up to step {steps[-1]}" if steps else "nothing was saved yet"
            raise Stopped(f"stopped by {signals.received}; {saved} in {folder}")


class _Writer:
    """The files of the checkpoints in one folder, each named by its step."""

    def __init__(self, folder: Path, keep: int, config: Config) -> None:
        self.folder, self.keep, self.config = folder, keep, config
        self.scores: dict[int, float] = {}  # by step; of those that have one
        self._thread = ThreadPoolExecutor(1)
        self._busy: Future[None] | None = None
        for path in folder.iterdir():  # of a process that was killed while it wrote
            if path.name.startswith(".") and path.suffix == ".tmp":
                path.unlink(missing_ok=True)
        for step in self.steps():
            with suppress(ValueError, KeyError, TypeError):  # damaged: refused when it is read
                self.scores[step] = float(storage.read_about(self.path(step))["score"])

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, *error: Any) -> None:
        self._thread.shutdown()

    def path(self, step: int) -> Path:
        return self.folder / f"{step}.npz"

    def steps(self) -> list[int]:
        """Steps of the checkpoints, in order. Names are matched here: a glob would read `[x]`."""
        found = (re.fullmatch(r"(-?\d+)\.npz", path.name) for path in self.folder.iterdir())
        return sorted(int(match[1]) for match in found if match)

    def write(self, step: int, run: Any, score: float | None) -> None:
        """Copy the run now, and write it in the background after what is being written."""
        packed = storage.pack(run)
        self.wait()
        if step in self.steps()[-1:]:
            return
        about = {"config": self.config, "score": score}
        self._busy = self._thread.submit(self._write, step, packed, about)

    def _write(self, step: int, packed: storage.Packed, about: dict[str, Any]) -> None:
        storage.write(self.path(step), packed, about=about)
        if about["score"] is not None:
            self.scores[step] = float(about["score"])
        steps = self.steps()
        scored = [s for s in steps if s in self.scores]
        best = max(scored, key=self.scores.__getitem__, default=None)
        for old in steps[: -self.keep]:
            if old != best:
                self.path(old).unlink(missing_ok=True)

    def wait(self) -> None:
        """Until everything is written; raise what went wrong."""
        if self._busy is not None:
            busy, self._busy = self._busy, None
            busy.result()


def _restore(writer: _Writer, like: Any, config: Config) -> Any:
    """The newest run that can be used; `like` if there is none at all."""
    refused: dict[Path, str] = {}
    for step in reversed(writer.steps()):
        path = writer.path(step)
        try:
            _check_config(storage.read_about(path)["config"], config)
            run = storage.load(path, like)
        except (ValueError, KeyError, TypeError, OSError) as error:
            refused[path] = str(error).replace(f"{path} ", "") or type(error).__name__
            continue
        for bad, why in refused.items():
            # Renamed, so that the resumed run can save this step again.
            bad.rename(bad.with_name(f"refused_{bad.stem}_{time.time_ns()}.npz"))
            warnings.warn(
                f"checkpoint {bad} was refused ({why}); resuming from step {step}", stacklevel=4
            )
        return run
    if refused:
        reasons = "; ".join(f"{path}: {why}" for path, why in refused.items())
        raise ValueError(f"no checkpoint can be used: {reasons}")
    return like


def _check_config(was: Config, config: Config) -> None:
    """Raise ValueError where two configurations differ; NaN is equal to itself here."""
    differing = [
        f"{name} is {was.get(name)!r} there, {config.get(name)!r} here"
        for name in sorted(was.keys() | config.keys())
        if was.get(name) != config.get(name)
        and json.dumps(was.get(name)) != json.dumps(config.get(name))
    ]
    if differing:
        raise ValueError(f"of another configuration: {', '.join(differing)}")


class _Signals:
    """SIGTERM and Ctrl-C interrupt the run, but not while it is being saved."""

    def __init__(self) -> None:
        self.received: str | None = None
        self._busy = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "_Signals":
        # Only the main thread may handle signals.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._interrupt)
        return self

    def __exit__(self, *error: Any) -> None:
        """Restore the handlers that were there before."""
        while self._before:
            signal.signal(*self._before.popitem())

    def _interrupt(self, number: int, frame: Any) -> None:
        self.received = signal.Signals(number).name
        if not self._busy:
            raise KeyboardInterrupt

    @contextmanager
    def held(self) -> Iterator[None]:
        """Delay signals that arrive in this block until its end."""
        self._busy = True
        try:
            yield
        finally:
            self._busy = False
        if self.received is not None:
            raise KeyboardInterrupt
