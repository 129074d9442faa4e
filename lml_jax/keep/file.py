"""A kept learner as one file: arrays and JSON, no pickle, whole or not at all."""

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lml_jax import storage
from lml_jax.checks import known
from lml_jax.data.images import Pixels
from lml_jax.keep.asking import ready
from lml_jax.keep.calibration import Calibration
from lml_jax.keep.encoders import ENCODERS, OWN, Encoder, check_probe, network, options_of, width_of
from lml_jax.keep.held_out import HeldOut, Marks
from lml_jax.keep.kept import Kept, probe_of
from lml_jax.keep.rules import Rule, head_rule, some_features
from lml_jax.types import Apply

VERSION = 1
RuleOf = Callable[[Mapping[str, Any]], Rule]  # what a file says of a rule -> the rule


def save(path: str | os.PathLike[str], kept: Kept) -> Path:
    """Write a learner to one file, whole or not at all.

    Everything is in it: the encoder's architecture by name and its parameters, statistics, class
    names, how image files are read, calibration, and where it all is from. Of an encoder of the
    user's own the parameters are saved, and `load` is given the function.

    Raises:
        OSError: if the file cannot be written; what was there before stays.

    Example:
        >>> import tempfile
        >>> from lml_jax.keep import encoder, new
        >>> kept = new(encoder("identity", {}), "nearest-mean", shape=(1,), dtype="float32")
        >>> load(save(Path(tempfile.mkdtemp()) / "mine.kept", kept)).rule.name
        'nearest-mean'
    """
    kept = ready(kept)
    assert kept.calibration is not None
    about = {
        "kept": VERSION,
        "rule": dict(kept.rule.about) or {"kind": "head", "name": kept.rule.name},
        "encoder": {"name": kept.encoder.name, "options": dict(kept.encoder.options)},
        "names": list(kept.names),
        "shape": list(kept.shape),
        "dtype": kept.dtype,
        "pixels": None if kept.pixels is None else kept.pixels._asdict(),
        "calibration": kept.calibration._asdict(),
        "provenance": kept.provenance,
    }
    tree = {
        "encoder": kept.encoder.params,
        "params": kept.params,
        "state": kept.state,
        "held_out": kept.held_out._asdict(),
        "marks": kept.marks._asdict(),
        "probe": kept.probe,
    }
    return storage.save(path, tree, about=about)


def load(
    path: str | os.PathLike[str],
    *,
    apply: Apply | None = None,
    rules: Mapping[str, RuleOf] | None = None,
) -> Kept:
    """The learner in a file, which may come from anyone: nothing in it is executed.

    Memory is bounded by the size of the file.

    Args:
        path: of the file.
        apply: the function of an encoder of the user's own.
        rules: kind -> how its rules are made, for learners that are no heads; see
            `experiments.kept.lifelong`. What a rule says of itself as `classes` and `shape` must
            be the number of slots and of d values.

    Raises:
        FileNotFoundError: for no such file.
        ValueError: naming the file, if it is damaged, is no learner, is of a newer version, needs
            `apply`, or if the encoder gives other features than when the learner was taught.

    Example: see `save`.
    """
    path = Path(path)
    about = storage.read_about(path)
    if not isinstance(about, dict) or "kept" not in about:
        raise ValueError(f"{path} holds arrays, but no learner that `keep.save` wrote")
    if about["kept"] != VERSION:
        raise ValueError(
            f"{path} is of version {about['kept']!r} of the format, and this lml_jax reads "
            f"{VERSION}: install the version that wrote it"
        )
    tree = storage.load(path)
    try:
        kept = _checked(path, about, tree, apply, rules or {})
    except ValueError as error:
        text = str(error)
        raise ValueError(text if str(path) in text else f"{path}: {text}") from error
    except Exception as error:  # of a description that no `save` has written
        raise ValueError(f"{path} is no whole learner: {error!r}") from error
    check_probe(probe_of(kept.encoder, kept.shape, kept.dtype), kept.probe, where=str(path))
    return kept


def _checked(
    path: Path,
    about: dict[str, Any],
    tree: dict[str, Any],
    apply: Apply | None,
    rules: Mapping[str, RuleOf],
) -> Kept:
    """The learner of a description and its arrays, each of the shape that it must have."""
    encoder = _encoder_of(path, about["encoder"], tree["encoder"], apply)
    names = _names_of(about["names"])
    pixels = None if about["pixels"] is None else _pixels_of(about["pixels"])
    shape, dtype = tuple(int(size) for size in about["shape"]), str(about["dtype"])
    if dtype not in ("uint8", "float32") or (pixels is not None and pixels.shape != shape):
        raise ValueError(f"examples are said to be {dtype} {list(shape)}")
    held, marks = HeldOut(**tree["held_out"]), Marks(**tree["marks"])
    probe = np.asarray(tree["probe"])
    dim = width_of(encoder, shape, dtype)
    if probe.ndim == 2 and probe.shape[1] != dim:
        raise ValueError(
            f"the encoder gives {dim} features, and gave {probe.shape[1]} when the learner was "
            "taught"
        )
    slots = len(names)
    _check_sizes(about["rule"], slots, dim)
    rule = _rule_of(path, about["rule"], rules)
    like = jax.eval_shape(lambda: rule.init(jax.random.key(0), slots, some_features(dim)))
    _check_like({"params": tree["params"], "state": tree["state"]},
                dict(zip(("params", "state"), like, strict=True)))  # fmt: skip
    _check_rows("held_out", held, {"z": ("float32", (dim,)), "y": ("int32", ()),
                                   "mark": ("uint64", ())}, slots)  # fmt: skip
    _check_rows("marks", marks, {"mark": ("uint64", ()), "y": ("int32", ())}, slots)
    if probe.ndim != 2 or probe.dtype != np.float32:
        raise ValueError(f"probe is {probe.dtype} {list(probe.shape)}, expected float32 [8, d]")
    taught = about["provenance"]["taught"]
    if not isinstance(taught, list):
        raise ValueError("provenance has no list of what was taught")
    return Kept(
        encoder, rule, tree["params"], tree["state"], names, shape, dtype, pixels, held, marks,
        probe, about["provenance"], _calibration_of(about["calibration"]),
    )  # fmt: skip


def _encoder_of(path: Path, about: Any, params: Any, apply: Apply | None) -> Encoder:
    name = str(about["name"])
    if name == OWN:
        if apply is None:
            raise ValueError(
                f"{path} was taught with an encoder of your own: give its function, "
                "load(path, apply=...)"
            )
        return Encoder(OWN, (), apply, params)
    known(name, ENCODERS, what="encoder")
    options = options_of(about["options"])
    return Encoder(name, options, network(name, options).apply, params)


def _rule_of(path: Path, about: Mapping[str, Any], rules: Mapping[str, RuleOf]) -> Rule:
    kind = about["kind"]
    if kind == "head":
        return head_rule(str(about["name"]))
    if kind not in rules:
        raise ValueError(
            f"{path} holds a learner of the kind {kind!r}; expected a head, or `rules` that make it"
        )
    return rules[kind](about)


def _check_sizes(about: Mapping[str, Any], slots: int, dim: int) -> None:
    """Raise ValueError for a rule of other sizes than the file has: it may be costly to make."""
    classes, shape = about.get("classes", slots), about.get("shape", [dim])
    if classes != slots:
        raise ValueError(f"the rule is said to be of {classes} classes, and there are {slots}")
    if min(shape, default=1) < 0 or math.prod(shape) != dim:
        raise ValueError(f"the rule is said to take {shape}, and the encoder gives {dim} features")


def _names_of(found: Any) -> tuple[str, ...]:
    names = tuple(found)
    for name in names:
        if not isinstance(name, str) or not name.isprintable():
            raise ValueError(f"{name!r} is no name of a class")
    own = [name for name in names if name]
    if len(set(own)) < len(own) or not names:
        raise ValueError("class names must differ, and there must be room for one")
    return names


def _pixels_of(found: Mapping[str, Any]) -> Pixels:
    height, width = found["size"]
    if not 1 <= height <= 10_000 or not 1 <= width <= 10_000:
        raise ValueError(f"images are said to be {height} x {width}")
    return Pixels(
        (int(height), int(width)), str(found["channels"]), str(found["filter"]),  # type: ignore[arg-type]
        bool(found["invert"]), bool(found["strict"]),
    )  # fmt: skip


def _calibration_of(found: Mapping[str, Any]) -> Calibration:
    u, v, w = map(float, found["known"])
    temperature = float(found["temperature"])
    if not temperature > 0:
        raise ValueError(f"the temperature is {temperature}")
    return Calibration(temperature, (u, v, w), float(found["accuracy"]), int(found["examples"]))


def _check_like(found: Any, like: Any) -> None:
    if str(jax.tree.structure(found)) != str(jax.tree.structure(like)):
        raise ValueError("what it has learned has another structure than its learner's")
    pairs = zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(like), strict=True)
    for (where, leaf), wanted in pairs:
        if np.shape(leaf) != wanted.shape or str(leaf.dtype) != str(wanted.dtype):
            raise ValueError(
                f"{jax.tree_util.keystr(where)} is {leaf.dtype} {list(np.shape(leaf))}, expected "
                f"{wanted.dtype} {list(wanted.shape)}"
            )


def _check_rows(
    what: str, rows: Any, kinds: Mapping[str, tuple[str, tuple[int, ...]]], slots: int
) -> None:
    n = len(rows.y)
    for name, (dtype, shape) in kinds.items():
        part = getattr(rows, name)
        if not isinstance(part, np.ndarray) or part.dtype.name != dtype:
            raise ValueError(f"{what}.{name} is no array of {dtype}")
        if part.shape != (n, *shape):
            raise ValueError(f"{what}.{name} has shape {list(part.shape)}, expected {[n, *shape]}")
    if n and not (rows.y.min() >= 0 and rows.y.max() < slots):
        raise ValueError(f"{what}.y has labels outside 0..{slots - 1}")
