"""Checkpoints of a whole run, over orbax: killed at any moment, and nothing lost.

A run is one pytree: parameters, optimiser, bank, generator, keys, cursor, scores so far. It is
stored as plain arrays by path beside their digest and the configuration that made them; nothing is
ever unpickled.
"""

import hashlib
import json
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

Config = dict[str, Any]
Arrays = dict[str, np.ndarray]


class Keeper(NamedTuple):
    """What a run asks of whoever keeps it."""

    start: Callable[[Any], Any]  # (run) -> the run as it was last saved, or `run` if it never was
    # (updates done, run, score=None) -> None: to be called where a run could go on from; the
    # checkpoint of the highest score outlives newer ones.
    save: Callable[..., None]


FORGETFUL = Keeper(start=lambda run: run, save=lambda step, run, score=None: None)


class Stopped(Exception):
    """A signal ended the run, after it was saved; the message says how to go on."""


@contextmanager
def keeper(
    folder: str | Path, *, config: Config, keep: int = 3, every: float = 60.0
) -> Iterator[Keeper]:
    """Keep a run in `folder`, and go on from there if one of the same configuration is there.

    Checkpoints appear whole or not at all, written in the background; the last `keep` stay, and the
    one of the highest score. However the block ends, what was handed over last is saved: SIGTERM
    and Ctrl-C do so and raise `Stopped`; a second one does not wait for what is being written.

    Args:
        folder: of this run's checkpoints, made if it is absent.
        config: what the run depends on, as json could hold it; another one is refused.
        keep: how many checkpoints stay, >= 1.
        every: least seconds between two checkpoints; 0 for one at every call.

    Raises:
        NotImplementedError: in a run of many processes, which would have to agree on when to save.
        ValueError: for keep below 1 or every below 0; in `start`, where there are checkpoints and
            none can be used, naming each with the reason.
        Stopped: after SIGTERM or Ctrl-C.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> for _ in range(2):
        ...     with keeper(folder, config={"seed": 0}) as kept:
        ...         run = kept.start({"w": jnp.zeros(2), "step": 0})
        ...         run = {"w": run["w"] + 1, "step": run["step"] + 1}
        ...         kept.save(run["step"], run)
        ...     print(run["w"].tolist(), run["step"])
        [1.0, 1.0] 1
        [2.0, 2.0] 2

    Source:
        Orbax, https://orbax.readthedocs.io: atomicity, the background and what is kept.
    """
    if keep < 1 or every < 0:
        raise ValueError(
            f"keep must be at least 1 and every at least 0 seconds, got {keep} and {every}"
        )
    if jax.process_count() > 1:
        raise NotImplementedError(
            f"a keeper keeps runs of one process, expected 1, got {jax.process_count()}: save with "
            "orbax.checkpoint.CheckpointManager, which knows of many hosts"
        )
    config = json.loads(json.dumps(config))
    stay = _LastAndBest(keep, {})
    with _manager(folder, stay) as manager:
        signals = _Signals()
        pending: list[tuple[int, Any, float | None]] = []
        last = -float("inf")

        def write() -> None:
            nonlocal last
            step, run, score = pending.pop()
            if score is not None:
                stay.scores[step] = score
            _write(manager, step, run, score, config)
            last = time.monotonic()

        def save(step: int, run: Any, score: float | None = None) -> None:
            with signals.held():
                pending[:] = [(step, run, score)]
                if time.monotonic() - last >= every:
                    write()

        def start(run: Any) -> Any:
            return _restore(manager, run, config)

        try:
            with signals:
                yield Keeper(start, save)
        except KeyboardInterrupt:
            if signals.received is None:
                raise
        finally:
            if pending:
                write()
            manager.wait_until_finished()
            step = manager.latest_step()
        if signals.received is not None:
            saved = "nothing was saved yet" if step is None else f"saved up to step {step}"
            raise Stopped(f"stopped by {signals.received}; {saved} in {manager.directory}")


class _LastAndBest(NamedTuple):
    """Which checkpoints stay. Orbax's own rule for the best keeps all those without a score."""

    keep: int
    scores: dict[int, float]  # by step; of those that have one

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        steps = [checkpoint.step for checkpoint in checkpoints]
        best = max((s for s in steps if s in self.scores), key=self.scores.__getitem__, default=-1)
        return [step in steps[-self.keep :] or step == best for step in steps]


def _manager(folder: str | Path, stay: _LastAndBest) -> ocp.CheckpointManager:
    manager = ocp.CheckpointManager(
        Path(folder).absolute(),
        options=ocp.CheckpointManagerOptions(
            preservation_policy=stay,
            # What a killed process left half written.
            cleanup_tmp_directories=True,
        ),
    )
    for step in manager.all_steps():
        with suppress(Exception):  # of a damaged one, which is refused by name when it is read
            stay.scores[step] = float(_about(manager, step)["score"])
    return manager


def _about(manager: ocp.CheckpointManager, step: int) -> Any:
    return manager.restore(step, args=ocp.args.Composite(about=ocp.args.JsonRestore())).about


def _write(
    manager: ocp.CheckpointManager, step: int, run: Any, score: float | None, config: Config
) -> None:
    if step == manager.latest_step():
        return
    arrays = _arrays(run)
    about = {"config": config, "digest": _digest(arrays), "score": score}
    # Orbax stores no empty arrays; there is nothing in them.
    stored = {path: array for path, array in arrays.items() if array.size}
    manager.save(
        step,
        args=ocp.args.Composite(
            run=ocp.args.PyTreeSave(stored), about=ocp.args.JsonSave(about)
        ),
        force=True,
    )  # fmt: skip


def _restore(manager: ocp.CheckpointManager, like: Any, config: Config) -> Any:
    """The newest run that can be used; `like` if there is none at all."""
    refused: dict[int, str] = {}
    for step in sorted(manager.all_steps(), reverse=True):
        try:
            run = _read(manager, step, like, config)
        # A file cut short or overwritten may raise anything from orbax, tensorstore or json.
        except Exception as error:
            refused[step] = str(error).splitlines()[0] if str(error) else type(error).__name__
            continue
        for bad, why in refused.items():
            # Moved out of the way of the run that will come by here again.
            path = manager.directory / str(bad)
            path.rename(path.with_name(f"refused_{bad}_{time.time_ns()}"))
            warnings.warn(
                f"checkpoint {path} was refused ({why}); going on from step {step}", stacklevel=4
            )
        if refused:
            manager.reload()
        return run
    if refused:
        reasons = "; ".join(f"{manager.directory / str(s)}: {why}" for s, why in refused.items())
        raise ValueError(f"no checkpoint can be used: {reasons}")
    return like


def _read(manager: ocp.CheckpointManager, step: int, like: Any, config: Config) -> Any:
    # In two steps, for a run of another configuration is whole.
    about = _about(manager, step)
    was = about["config"]
    differing = [
        f"{name} is {was.get(name)!r} there, {config.get(name)!r} here"
        for name in sorted(was.keys() | config.keys())
        if was.get(name) != config.get(name)
    ]
    if differing:
        raise ValueError(f"of another configuration: {', '.join(differing)}")
    stored = manager.restore(step, args=ocp.args.Composite(run=ocp.args.PyTreeRestore())).run
    wanted = _arrays(like)
    arrays = {path: stored.get(path, array[:0]) if array.size == 0 else stored.get(path)
              for path, array in wanted.items()}  # fmt: skip
    for path, array in arrays.items():
        if array is None or (array.shape, array.dtype) != (wanted[path].shape, wanted[path].dtype):
            raise ValueError(f"holds no {path} of shape {wanted[path].shape}")
    if _digest(arrays) != about["digest"]:
        raise ValueError("its arrays are not those that were written")
    leaves, structure = jax.tree.flatten(like)
    restored = [_leaf(*pair) for pair in zip(leaves, arrays.values(), strict=True)]
    return jax.tree.unflatten(structure, restored)


def _arrays(run: Any) -> Arrays:
    """Every leaf as a numpy array of its own, by path; a key as its data."""

    def host(leaf: Any) -> np.ndarray:
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        # A copy: it is written while the run goes on.
        return np.array(leaf)

    paths = jax.tree_util.tree_leaves_with_path(run)
    arrays = {jax.tree_util.keystr(p, simple=True, separator="."): host(leaf) for p, leaf in paths}
    if len(arrays) < len(paths):
        raise ValueError("two arrays of the run have the same path, as a.b and a: {b} would have")
    return arrays


def _leaf(like: Any, array: np.ndarray) -> Any:
    """`array` as the kind of leaf that `like` is, and where it is."""
    if isinstance(like, np.ndarray):
        return array
    if not isinstance(like, jax.Array):
        return type(like)(array.item())
    if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(like))
    return jax.device_put(array, like.sharding) if like.committed else jnp.asarray(array)


def _digest(arrays: Arrays) -> str:
    digest = hashlib.sha256()
    for path, array in arrays.items():
        digest.update(f"{path} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


class _Signals:
    """SIGTERM and Ctrl-C while a run is kept: interrupt it, but not while it is handed over."""

    def __init__(self) -> None:
        self.received: str | None = None
        self._busy = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "_Signals":
        # Elsewhere than in the main thread, signals are not ours to catch.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._interrupt)
        return self

    def __exit__(self, *error: Any) -> None:
        """Leave signals to whoever had them before."""
        while self._before:
            signal.signal(*self._before.popitem())

    def _interrupt(self, number: int, frame: Any) -> None:
        self.received = signal.Signals(number).name
        if not self._busy:
            raise KeyboardInterrupt

    @contextmanager
    def held(self) -> Iterator[None]:
        """Put off what arrives in this block to its end."""
        self._busy = True
        try:
            yield
        finally:
            self._busy = False
        if self.received is not None:
            raise KeyboardInterrupt
