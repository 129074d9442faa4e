"""A folder, or a file, that one process at a time writes."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]

OWNER = ".owner"  # in a folder that a process owns


@contextmanager
def owned(folder: str | Path) -> Iterator[Path]:
    """Own a folder while the block runs, so that no other process writes into it.

    The owner holds an advisory lock, which the system releases however the process ends. Not
    enforced on systems without `flock` (Windows).

    Args:
        folder: made if it is absent; it holds a file `.owner` while it is owned.

    Yields:
        The folder.

    Raises:
        BlockingIOError: if the folder is owned, by another process or an earlier call in this one;
            the message names the process.

    Example:
        >>> import tempfile
        >>> with owned(tempfile.mkdtemp()) as folder:
        ...     (folder / OWNER).exists()
        True
        >>> (folder / OWNER).exists()
        False
    """
    folder = Path(folder)
    with _locked(folder / OWNER, folder, "wait until it ends, or choose another folder"):
        yield folder


@contextmanager
def owned_file(path: str | Path) -> Iterator[Path]:
    """Own a file while the block reads it, changes it and replaces it. Otherwise as `owned`.

    Args:
        path: of the file, which may be absent; PATH.lock is beside it while it is owned.

    Yields:
        The path.

    Raises:
        BlockingIOError: as `owned`.
        OSError: if nothing can be written into the folder of the file.

    Example:
        >>> import tempfile
        >>> with owned_file(Path(tempfile.mkdtemp()) / "mine.kept") as path:
        ...     path.with_name("mine.kept.lock").exists()
        True
    """
    path = Path(path)
    lock = path.with_name(f"{path.name}.lock")
    with _locked(lock, path, "wait until it ends"):
        yield path


@contextmanager
def _locked(path: Path, what: Path, advice: str) -> Iterator[None]:
    """Hold the lock of the file `path`, which exists while it is held."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = _lock(path, what, advice)
    try:
        text = f"process {os.getpid()} on {socket.gethostname()}"
        os.ftruncate(lock, 0)
        os.pwrite(lock, text.encode(), 0)
        yield
    finally:
        # While the lock is held: nobody can own another file of this name by now.
        path.unlink(missing_ok=True)
        os.close(lock)


def _lock(path: Path, what: Path, advice: str) -> int:
    """A descriptor of `path` that holds its lock."""
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if fcntl is not None:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # An owner that has just finished may have removed the file that was opened here.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(lock), path.stat()):
                    return lock
            os.close(lock)
        except BlockingIOError:
            owner = os.pread(lock, 200, 0).decode(errors="replace") or "another process"
            os.close(lock)
            raise BlockingIOError(f"{what} is in use by {owner}: {advice}") from None
