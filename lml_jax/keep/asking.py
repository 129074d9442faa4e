"""Asking a kept learner: names and probabilities, for batches of any size."""

import os
import warnings
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from lml_jax.data.images import read_image
from lml_jax.keep.batches import filled, padded, sizes_for
from lml_jax.keep.calibration import LEAST, Calibration, calibrate, probabilities
from lml_jax.keep.encoders import encode
from lml_jax.keep.kept import Kept, examples_of
from lml_jax.keep.teaching import without_held_out
from lml_jax.types import PyTree

NONE = "none of these"


class Answers(NamedTuple):
    """What a learner says of n examples.

    Attributes:
        names: the most probable class of each, or "none of these".
        probabilities: float32 [n, K] of the classes; their sum is `known`.
        known: float32 [n], the probability that the example is of one of the classes at all.
        classes: the K names.
    """

    names: list[str]
    probabilities: np.ndarray
    known: np.ndarray
    classes: tuple[str, ...]


class FileAnswer(NamedTuple):
    """What a learner says of one image file; `name` is "" and `error` says why for none."""

    file: Path
    name: str
    probability: float
    known: float
    error: str = ""


def ready(kept: Kept) -> Kept:
    """The learner with its classifier and calibration computed: what `ask` does once per call else.

    It answers as before. A learner that serves requests is made ready once.

    Example:
        >>> from lml_jax.keep import encoder, new
        >>> kept = new(encoder("identity", {}), "nearest-mean", shape=(1,), dtype="float32")
        >>> ready(kept).calibration.examples
        0
    """
    if kept.calibration is None:
        kept = kept._replace(calibration=_calibration(kept))
    if kept.fitted is None:
        kept = kept._replace(fitted=_fit(kept.rule.fit, kept.params, kept.state))
    return kept


def ask(kept: Kept, x: ArrayLike, *, reject: float | None = None) -> Answers:
    """The class of each example, with its probability.

    Probabilities are calibrated where there are at least 10 held-out examples; a warning says where
    they are not, see `uncalibrated`.

    Nothing compiles for a batch whose padded size was seen before, however many classes were
    learned since, and threads may call it at once.

    Args:
        kept: the learner; `ready` saves work where it is asked more than once.
        x: examples [n, *kept.shape]; n may be 0 or any number, memory is bounded.
        reject: answer "none of these" where the probability that an example is of any class the
            learner knows is below this number, in 0..1; None: never.

    Returns:
        `Answers`.

    Raises:
        ValueError: before any class was taught; for examples of another shape or type, or features
            so large that a probability is not finite; for `reject` outside 0..1, or where too few
            held-out examples say what is unknown.

    Example:
        >>> from lml_jax.keep import encoder, new, teach
        >>> from lml_jax.types import Batch
        >>> kept = new(encoder("identity", {}), "nearest-mean", shape=(1,), dtype="float32")
        >>> two = Batch(jnp.array([[0.0], [9.0]]), jnp.array([0, 1]))
        >>> kept = teach(kept, two, names=["a", "b"])
        >>> answers = ask(kept, np.array([[1.0]]))
        >>> answers.names, answers.classes, answers.probabilities.round(3).tolist()
        (['a'], ('a', 'b'), [[1.0, 0.0]])
    """
    kept = ready(kept)
    check_reject(kept, reject)
    if why := uncalibrated(kept):
        warnings.warn(why, UserWarning, stacklevel=2)
    x = examples_of(kept, x)
    columns = np.flatnonzero(np.array([bool(name) for name in kept.names]))
    p = np.empty((len(x), len(columns)), np.float32)
    sure = np.empty(len(x), np.float32)
    for part, size in padded(len(x), sizes_for(kept.shape)):
        n = part.stop - part.start
        own, own_sure = answer(kept, jnp.asarray(filled(x[part], size)))
        p[part], sure[part] = np.asarray(own)[:n, columns], np.asarray(own_sure)[:n]
    if not (np.isfinite(p).all() and np.isfinite(sure).all()):
        raise ValueError("the probabilities of some of the examples are not finite: their features "
                         "are too large")  # fmt: skip
    classes = kept.classes
    best = [classes[i] for i in p.argmax(1)] if len(x) else []
    if reject is not None:
        best = [name if s >= reject else NONE for name, s in zip(best, sure, strict=True)]
    return Answers(best, p, sure, classes)


def ask_files(
    kept: Kept, files: Iterable[str | os.PathLike[str]], *, reject: float | None = None
) -> Iterator[FileAnswer]:
    """The class of each image file, one after another; memory does not depend on their number.

    A file that cannot be read has an answer with an `error`.

    Raises:
        ValueError: as `ask`; for a learner without `pixels`.
    """
    kept = ready(kept)
    check_reject(kept, reject)
    if kept.pixels is None:
        raise ValueError("this learner takes arrays, and no image files: it has no `pixels`")
    paths, largest = iter(files), sizes_for(kept.shape)[-1]
    while chunk := [Path(path) for path in islice(paths, largest)]:
        images: list[np.ndarray] = []
        errors: dict[int, str] = {}
        for i, path in enumerate(chunk):
            try:
                images.append(read_image(path, kept.pixels))
            except ValueError as error:
                errors[i] = str(error)
        empty = np.zeros((0, *kept.shape), np.uint8)
        found = ask(kept, np.stack(images) if images else empty, reject=reject)
        rows = iter(zip(found.names, found.probabilities.max(1, initial=0), found.known,
                        strict=True))  # fmt: skip
        for i, path in enumerate(chunk):
            if i in errors:
                yield FileAnswer(path, "", float("nan"), float("nan"), errors[i])
            else:
                name, p, sure = next(rows)
                yield FileAnswer(path, name, float(p), float(sure))


def uncalibrated(kept: Kept) -> str:
    """Why the probabilities of a learner that is ready are not calibrated; empty where they are.

    Example:
        >>> from lml_jax.keep import encoder, new
        >>> kept = new(encoder("identity", {}), "nearest-mean", shape=(1,), dtype="float32")
        >>> uncalibrated(ready(kept))
        'probabilities are not calibrated: 0 held-out examples, 10 needed'
    """
    assert kept.calibration is not None
    if kept.calibration.calibrated:
        return ""
    return (
        f"probabilities are not calibrated: {kept.calibration.examples} held-out examples, "
        f"{LEAST} needed"
    )


def check_reject(kept: Kept, reject: float | None) -> None:
    """Raise ValueError where nothing was learned, or nothing can be rejected."""
    if not kept.classes:
        raise ValueError("nothing was taught yet: teach some classes before asking")
    if reject is None:
        return
    if not 0 <= reject <= 1:
        raise ValueError(f"reject must be a probability in 0..1, got {reject}")
    assert kept.calibration is not None
    if not kept.calibration.rejects:
        raise ValueError(
            "nothing can be rejected: what is unknown is learned from at least 10 held-out "
            f"examples of 3 classes, and there are {kept.calibration.examples} of "
            f"{len(kept.classes)}; teach more examples"
        )


def answer(kept: Kept, x: Array) -> tuple[Array, Array]:
    """(p [n, C], p(known) [n]) of one batch, for all C slots; the learner must be ready."""
    assert kept.calibration is not None
    return _answer(
        (kept.encoder.apply, kept.rule.predict),
        kept.encoder.params,
        kept.params,
        kept.fitted,
        *(jnp.asarray(value, jnp.float32) for value in kept.calibration[:2]),
        x,
    )


def answer_of(
    functions: tuple[Any, Any],
    encoder_params: PyTree,
    params: PyTree,
    fitted: PyTree,
    temperature: Array,
    known: Array,
    x: Array,
) -> tuple[Array, Array]:
    """The whole of an answer as one function of arrays; `functions` are those of the learner."""
    apply, predict = functions
    logits = predict(params, fitted, encode(apply, encoder_params, x))
    return probabilities(logits, temperature, known)


_answer = jax.jit(answer_of, static_argnums=0)
_fit = jax.jit(lambda fit, params, state: fit(params, state), static_argnums=0)


@partial(jax.jit, static_argnums=0)
def _predict(predict: Any, params: PyTree, fitted: PyTree, z: Array) -> Array:
    return predict(params, fitted, z)


def held_out_logits(kept: Kept) -> np.ndarray:
    """Logits [m, C] of the held-out examples, by the learner that has never seen them."""
    fitted = _fit(kept.rule.fit, kept.params, without_held_out(kept))
    z = kept.held_out.z
    logits = np.empty((len(z), len(kept.names)), np.float32)
    for part, size in padded(len(z), sizes_for((kept.dim,))):
        own = _predict(kept.rule.predict, kept.params, fitted, jnp.asarray(filled(z[part], size)))
        logits[part] = np.asarray(own)[: part.stop - part.start]
    return logits


def _calibration(kept: Kept) -> Calibration:
    if not len(kept.held_out.y):
        return Calibration()
    return calibrate(held_out_logits(kept), kept.held_out.y)
