"""Data sets that tfds prepared, read without TensorFlow and without the network."""

import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any


def prepared(name: str, data_dir: str | os.PathLike | None) -> tuple[Path, str]:
    """The folder of the newest version that tfds prepared, and a stamp of its contents.

    tfds itself would retry the network for minutes, or answer with a misleading error.
    """
    root = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    try:
        root = Path(root).expanduser()
    except RuntimeError as error:  # Path finds no home
        raise FileNotFoundError(
            f"there is no home directory to look for {name} in: pass data_dir, or set TFDS_DATA_DIR"
        ) from error
    command = (
        "pip install 'lml-jax[prepare]' && python -c \"import tensorflow_datasets as tfds; "
        f"tfds.builder('{name}', data_dir='{root}', file_format='array_record')"
        '.download_and_prepare()"'
    )
    infos = [
        (tuple(int(part) for part in info.parent.name.split(".")), info)
        for info in (root / name).glob("*/dataset_info.json")
        if info.parent.name.replace(".", "").isdigit()
    ]
    if not infos:
        raise FileNotFoundError(
            f"{name} is not prepared in {root} (no {name}/VERSION/dataset_info.json there). "
            f"Pass data_dir, set TFDS_DATA_DIR, or prepare it once:\n  {command}"
        )
    info = max(infos)[1]
    content = info.read_bytes()
    if (found := json.loads(content).get("fileFormat")) != "array_record":
        raise FileNotFoundError(
            f"{info.parent} is in format {found!r}, which only TensorFlow reads, expected "
            f"'array_record'. Remove it and prepare it again:\n  {command}"
        )
    return info.parent, hashlib.sha256(content).hexdigest()[:12]


def read_records(folder: Path, split: str) -> list[dict[str, Any]]:
    """All records of a split, images still encoded."""
    import tensorflow_datasets as tfds  # slow to import, and not needed once the cache is filled

    # From the folder, not by name: no code of the builder runs, so nothing can download.
    source = tfds.builder_from_directory(str(folder)).as_data_source(
        split=split, decoders={"image": tfds.decode.SkipDecoding()}
    )
    # One bulk read: record by record takes seven times as long.
    return source.__getitems__(range(len(source)))


def decode_image(record: dict[str, Any]) -> Any:
    """The Pillow image of a record, 8 bits per pixel, one channel."""
    from PIL import Image

    return Image.open(io.BytesIO(record["image"])).convert("L")
