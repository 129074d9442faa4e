"""A kept learner as a StableHLO artefact that answers without this library."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, export

from lml_jax.atomic_write import replacing
from lml_jax.keep.asking import answer_of, check_reject, ready
from lml_jax.keep.kept import Kept

_BATCH = 64  # examples, where the number must be fixed


def exported(
    path: str | os.PathLike[str], kept: Kept, *, platforms: Sequence[str] = ("cpu", "cuda", "tpu")
) -> Path:
    """Write the learner as a compiled function, and what it answers in `PATH.json`.

    `jax.export.deserialize(bytes).call(x)` gives (probabilities [n, K], p(known) [n]) of examples
    x [n, ...]; it needs jax and nothing else. The file beside it names the K classes, the shape and
    type of x, and how image files become x. Where a head cannot be compiled for any n, "batch" says
    which it takes.

    Args:
        path: of the artefact.
        kept: the learner, which must know a class.
        platforms: what it is compiled for.

    Raises:
        ValueError: before any class was taught.

    Example:
        >>> import tempfile
        >>> from lml_jax.keep import encoder, new, teach
        >>> from lml_jax.types import Batch
        >>> kept = new(encoder("identity", {}), "nearest-mean", shape=(1,), dtype="float32")
        >>> two = Batch(jnp.array([[0.0], [9.0]]), jnp.array([0, 1]))
        >>> kept = teach(kept, two, names=["a", "b"])
        >>> path = exported(Path(tempfile.mkdtemp()) / "mine.stablehlo", kept)
        >>> p, known = export.deserialize(path.read_bytes()).call(jnp.array([[8.0]]))
        >>> json.loads(Path(f"{path}.json").read_text())["classes"][int(p.argmax())]
        'b'
    """
    kept = ready(kept)
    check_reject(kept, None)
    assert kept.calibration is not None
    columns = np.flatnonzero(np.array([bool(name) for name in kept.names]))
    temperature, known = (jnp.asarray(part, jnp.float32) for part in kept.calibration[:2])

    @jax.jit
    def answer(x: Array) -> tuple[Array, Array]:
        functions = kept.encoder.apply, kept.rule.predict
        given = kept.encoder.params, kept.params, kept.fitted, temperature, known
        p, sure = answer_of(functions, *given, x)
        return p[:, columns], sure

    def compiled(n: object) -> bytes:
        shape = jax.ShapeDtypeStruct((n, *kept.shape), jnp.dtype(kept.dtype))
        return bytes(export.export(answer, platforms=list(platforms))(shape).serialize())

    batch: int | None = None
    try:
        content = compiled(export.symbolic_shape("n")[0])
    except Exception:  # of any encoder that looks at the number of examples
        batch, content = _BATCH, compiled(_BATCH)
    about = {
        "classes": list(kept.classes),
        "shape": list(kept.shape),
        "dtype": kept.dtype,
        "batch": batch,
        "pixels": None if kept.pixels is None else kept.pixels._asdict(),
        "platforms": list(platforms),
        "calibration": {
            "examples": kept.calibration.examples,
            "calibrated": kept.calibration.calibrated,
            "rejects": kept.calibration.rejects,
        },
    }
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    with replacing(f"{os.fspath(path)}.json") as temporary:
        temporary.write_text(json.dumps(about, indent=1))
    return Path(path)
