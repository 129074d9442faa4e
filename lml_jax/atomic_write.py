"""Files that a reader sees whole or not at all."""

import os
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

# What numpy raises for an archive that was cut short, overwritten or never was one; AttributeError
# for a bare .npy array under its name, MemoryError for a header that claims too much.
BROKEN_ARCHIVE = (
    OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, EOFError,
    NotImplementedError, RecursionError, MemoryError, SyntaxError, tokenize.TokenError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary file to write, beside `path`, which it replaces if the block ends well.

    Makes the folder. A block that raises, or a process that is killed, leaves `path` as it was.

    Raises:
        OSError: if the folder cannot be made or written.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "new" / "numbers.txt"
        >>> with replacing(path) as temporary:
        ...     _ = temporary.write_text("1 2 3")
        ...     path.exists()
        False
        >>> path.read_text()
        '1 2 3'
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile, whose files nobody else may read.
    temporary = target.with_name(f".{target.name}.{uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
