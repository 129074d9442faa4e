"""The record of a learner that is kept, and a new one."""

from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from lml_jax._version import __version__
from lml_jax.data.images import Pixels, check_pixels
from lml_jax.keep.calibration import Calibration
from lml_jax.keep.encoders import Encoder, encode, probe_batch, width_of
from lml_jax.keep.held_out import HeldOut, Marks
from lml_jax.keep.rules import Rule, head_rule, some_features
from lml_jax.types import Params, PyTree

Provenance: TypeAlias = dict[str, Any]  # anything that JSON can hold
_DTYPES = ("uint8", "float32")


class Kept(NamedTuple):
    """A learner that is kept: taught, asked, saved, loaded and taught more. Immutable.

    Attributes:
        encoder: examples to features [n, d]; frozen.
        rule: how features are learned and classified.
        params: what the rule does not learn from examples: a prior, a random projection.
        state: what it has learned, a pytree for C classes, of which some are free.
        names: the name of each of the C classes; "" where it is free.
        shape: of one example.
        dtype: of examples, "uint8" for images in 0..255 or "float32".
        pixels: how image files become examples; None where there are none.
        held_out: features of held-out examples.
        marks: hashes of all examples.
        probe: features [8, d] of a fixed batch, by which another encoder is noticed.
        provenance: where the encoder is from, versions, and what was taught when.
        calibration: of the probabilities; None after the learner was taught.
        fitted: the classifier of `state`; None where it was not computed yet. It is not saved.
    """

    encoder: Encoder
    rule: Rule
    params: Params
    state: PyTree
    names: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    pixels: Pixels | None
    held_out: HeldOut
    marks: Marks
    probe: np.ndarray
    provenance: Provenance
    calibration: Calibration | None = None
    fitted: PyTree = None

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes that it knows, in the order of its probabilities."""
        return tuple(name for name in self.names if name)

    @property
    def dim(self) -> int:
        """Width d of the features."""
        return self.probe.shape[1]

    @property
    def examples(self) -> int:
        """How many examples it was taught."""
        return len(self.marks.mark)


def new(
    encoder: Encoder,
    head: str | Rule = "lda",
    *,
    shape: tuple[int, ...] | None = None,
    dtype: str = "uint8",
    pixels: Pixels | None = None,
    head_params: Params | None = None,
    origin: Provenance | None = None,
    seed: int = 0,
    capacity: int = 16,
) -> Kept:
    """A learner that knows no class yet.

    Args:
        encoder: made by `encoder` or `own_encoder`.
        head: a name in `heads.HEADS`; or a `Rule`.
        shape: of one example; None for that of `pixels`.
        dtype: "uint8" for images in 0..255, or "float32".
        pixels: how image files become examples; None where no file is ever read.
        head_params: meta-trained parameters of the head; None for its initial values.
        origin: where the encoder is from, as JSON can hold it.
        seed: of what the head draws, the projection of "random-ridge".
        capacity: classes that there is room for; it doubles when it is full.

    Raises:
        ValueError: for an unknown head or type, neither shape nor pixels or two that disagree, an
            encoder that does not give features [n, d], or `head_params` of another structure.

    Example:
        >>> from lml_jax.keep.encoders import encoder
        >>> kept = new(encoder("identity", {}), "nearest-mean", shape=(4,), dtype="float32")
        >>> kept.dim, kept.classes
        (4, ())
    """
    if dtype not in _DTYPES:
        raise ValueError(f"dtype must be uint8 or float32, got {dtype!r}")
    if pixels is not None:
        check_pixels(pixels)
        if shape not in (None, pixels.shape) or dtype != "uint8":
            raise ValueError(
                f"pixels give images of uint8 {list(pixels.shape)}, got shape {shape} of {dtype}"
            )
        shape = pixels.shape
    if shape is None:
        raise ValueError("expected the shape of an example, or pixels")
    rule = head_rule(head) if isinstance(head, str) else head
    dim = width_of(encoder, shape, dtype)
    params, state = rule.init(jax.random.key(seed), capacity, some_features(dim))
    if head_params is not None:
        params = _with_head(params, head_params, rule.name)
    none = np.zeros(0, np.uint64), np.zeros(0, np.int32)
    return Kept(
        encoder,
        rule,
        params,
        state,
        names=("",) * capacity,
        shape=tuple(shape),
        dtype=dtype,
        pixels=pixels,
        held_out=HeldOut(np.zeros((0, dim), np.float32), none[1], none[0]),
        marks=Marks(*none),
        probe=probe_of(encoder, shape, dtype),
        provenance={
            "encoder": origin or {},
            "versions": {"lml_jax": __version__, "jax": jax.__version__},
            "taught": [],
        },
    )


def probe_of(encoder: Encoder, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Features [8, d] of the fixed batch that tells encoders apart."""
    batch = jnp.asarray(probe_batch(shape, dtype))
    return np.asarray(encoded(encoder.apply, encoder.params, batch))


encoded = jax.jit(encode, static_argnums=0)


def examples_of(kept: Kept, x: ArrayLike) -> np.ndarray:
    """Examples as the learner takes them, [n, *shape].

    Raises:
        ValueError: for other channels, another width of features, another size or type, or values
            that are not finite.
    """
    found = np.asarray(x)
    if found.shape[1:] != kept.shape:
        _refuse(found.shape[1:], kept.shape)
    if kept.dtype == "uint8":
        if found.dtype != np.uint8:
            raise ValueError(f"x is of {found.dtype}, expected images of uint8 in 0..255")
        return found
    if found.dtype.kind not in "iuf" and found.dtype.name != "bfloat16":
        raise ValueError(f"x is of {found.dtype}, expected floats")
    found = found.astype(np.float32)
    if not np.isfinite(found).all():
        raise ValueError("x holds NaN, infinity or values beyond float32, expected finite ones")
    return found


def _refuse(found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if len(expected) == 1:
        raise ValueError(
            f"x has examples of shape {list(found)}, and the learner knows {expected[0]} features"
        )
    if found[:2] == expected[:2]:
        own = [shape[2] if len(shape) == 3 else 1 for shape in (found, expected)]
        raise ValueError(f"x has images of {own[0]} channels, and the learner knows {own[1]}")
    raise ValueError(f"x has examples of shape {list(found)}, and the learner knows "
                     f"{list(expected)}")  # fmt: skip


def _with_head(params: Params, head_params: Params, name: str) -> Params:
    own = jax.tree.map(jnp.shape, params["head"])
    if jax.tree.map(jnp.shape, head_params) != own:
        raise ValueError(
            f"the parameters of the head {name!r} are {own}, got "
            f"{jax.tree.map(jnp.shape, head_params)}"
        )
    taken = {**params, "head": jax.tree.map(jnp.asarray, head_params)}
    return taken | ({"relative": jnp.zeros(())} if "relative" in params else {})
