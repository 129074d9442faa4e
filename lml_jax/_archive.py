"""Checks of an archive of arrays before anything of it is read into memory."""

import math
import os
import zipfile
from typing import IO, Any

import numpy as np


def check_archive(file: IO[bytes]) -> None:
    """Raise unless a file is a zip of plain, uncompressed arrays that are as large as they say.

    Reading it then takes no more memory than it has bytes, whatever its headers claim.

    Args:
        file: open for reading, at its beginning, where it is left again.

    Raises:
        ValueError: for compressed, repeated or encrypted members, for arrays of Python objects, and
            for headers that disagree with the size of their member.
        zipfile.BadZipFile: for something else than a zip.

    Example:
        >>> import io
        >>> file = io.BytesIO()
        >>> np.savez_compressed(file, x=np.zeros(9))
        >>> check_archive(file)
        Traceback (most recent call last):
        ...
        ValueError: its member x.npy is compressed or encrypted, expected plain bytes
    """
    file.seek(0, os.SEEK_END)
    size = file.tell()
    file.seek(0)
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if len({member.filename for member in members}) < len(members):
            raise ValueError("a member of it is there twice")
        for member in members:
            if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
                raise ValueError(
                    f"its member {member.filename[:80]} is compressed or encrypted, expected plain "
                    "bytes"
                )
        if sum(member.file_size for member in members) > size:
            raise ValueError("its members claim more bytes than it has")
        for member in members:
            check_member(archive, member)
    file.seek(0)


def check_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """Raise ValueError unless the header of an array claims the bytes that its member has.

    Example:
        >>> import io
        >>> file = io.BytesIO()
        >>> np.savez_compressed(file, x=np.zeros(9))
        >>> with zipfile.ZipFile(file) as archive:
        ...     check_member(archive, archive.infolist()[0])
    """
    with archive.open(member) as part:
        _check_array(part, member.filename[:80], member.file_size)


def _check_array(part: IO[bytes], name: str, size: int) -> None:
    version = np.lib.format.read_magic(part)
    read: Any = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:
        raise ValueError(f"its member {name} has the array format {version}, expected 1.0 or 2.0")
    shape, _, dtype = read(part)
    if dtype.hasobject:
        raise ValueError(f"its member {name} holds Python objects, expected numbers")
    claimed = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or part.tell() + claimed != size:
        raise ValueError(f"its member {name} claims {claimed} bytes, and has {size - part.tell()}")
