"""The folder of a run: opened by one process at a time, and never overwritten."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lml_jax.checkpoint import OWNER, owned
from lml_jax.experiments.record import read_metrics, save_params, write_metrics
from lml_jax.train import DivergedError
from lml_jax.types import LifelongState

CHECKPOINTS = "checkpoints"  # the folder of a run's checkpoints, within that of the run


@contextmanager
def opened(out: str | os.PathLike[str], *, resume: bool = False) -> Iterator[Path]:
    """The folder of a new run, made if absent; or with `resume`, of one with checkpoints.

    While the block runs, no other process can open the folder. Empty folders in it, of a run that
    was interrupted before it saved anything, do not count.

    Raises:
        FileExistsError: if it holds files of another run; nothing is ever overwritten.
        BlockingIOError: if a process that is running has opened it.
    """
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file, expected a folder for the run")
    if any(path.is_file() for path in folder.rglob("*") if path.name != OWNER):
        saved = next(folder.rglob(CHECKPOINTS), None) is not None  # of a run, or of one inside
        if not (resume and saved):
            first = sorted(path.name for path in folder.iterdir() if path.name != OWNER)[0]
            raise FileExistsError(
                f"{folder} holds another run ({first}, ...)"
                + (" without checkpoints" if resume else "")
                + ": choose another --out, or move it away"
                + (", or continue it with --resume" if saved else "")
            )
    with owned(folder):
        yield folder


@contextmanager
def last_good(folder: Path, *, about: str = "") -> Iterator[None]:
    """If the run inside diverges, write its last good parameters and where it stopped.

    `about` names the run among several in one folder, in the message and in `last_good_ABOUT.npz`.
    The records of finished runs in `metrics.json` stay.
    """
    try:
        yield
    except DivergedError as error:
        end, state = f"_{about}" if about else "", error.state
        lifelong = isinstance(state, LifelongState)
        save_params(folder, (state.train if lifelong else state).params, name=f"last_good{end}")
        if lifelong and state.own:
            save_params(folder, state.own, name=f"last_good_own{end}")
        said = f"{about}: {error}" if about else str(error)
        done = read_metrics(folder)
        write_metrics(folder, {**done, "diverged": said, "steps": int(state.step)})
        raise
