"""Teaching a kept learner, and making it forget."""

import os
import time
from collections.abc import Sequence
from functools import partial
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from lml_jax.checks import known
from lml_jax.data.folder import Unreadable, check_names
from lml_jax.keep.batches import encode_all, padded, sizes_for
from lml_jax.keep.conflicts import Given, described, refuse, warn
from lml_jax.keep.held_out import (
    NEVER,
    PER_CLASS,
    HeldOut,
    Marks,
    earlier_class,
    inserted,
    marks_of,
    with_held_out,
)
from lml_jax.keep.kept import Kept, examples_of
from lml_jax.keep.parts import parts_of_arrays, parts_of_folder
from lml_jax.keep.rules import RuleLearn, some_features
from lml_jax.lifelong.growth import capacity_for
from lml_jax.types import Batch, Dataset, Params, PyTree

Repeated: TypeAlias = Literal["skip", "count"]
Conflicts: TypeAlias = Literal["refuse", "skip"]
_LARGEST = 1e15  # of a feature: sums of its squares stay in the range of float32


def teach(
    kept: Kept,
    examples: Dataset | Batch | str | os.PathLike[str],
    *,
    names: Sequence[str] = (),
    repeated: Repeated = "skip",
    unreadable: Unreadable = "skip",
    conflicts: Conflicts = "refuse",
) -> Kept:
    """The learner after more examples, of classes that it knows or of new ones.

    The same examples in any order, in any pieces, saved and loaded in between, give the same
    predictions up to rounding, where the rule's statistics are exact (all heads). A rule that
    cannot unlearn (lifelong learners) never learns the held-out examples, about one in five.

    Args:
        kept: the learner; it is not changed.
        examples: a folder of class folders, read as `kept.pixels` says; a `Dataset` with class
            names; or a `Batch` with labels 0..C-1, or -1 for examples that are left out.
        names: names of the classes of a `Batch`, or of a `Dataset` in place of its own.
        repeated: examples that were taught before, to the byte: "skip", so that a folder which
            has grown can be taught again; or "count", learn them once more.
        unreadable: files that cannot be read: "skip" with a warning, or "refuse".
        conflicts: an example that was taught as another class, such as one image in two folders,
            or two that are equal once resized: "refuse"; or "skip" with a warning, the class that
            came first has it. This is not looked for where `repeated` is "count".

    Returns:
        A `Kept` with the new classes behind the old ones, or in the places of forgotten ones.
        `provenance["taught"][-1]` says how many examples were taught and skipped.

    Raises:
        ValueError: for examples of another shape or type than the learner knows, classes without a
            name, a name that differs from a known one only in case, an example that was taught as
            another class, or a bad folder, see `data.from_folder`.

    Example:
        >>> from lml_jax.keep import ask, encoder, new
        >>> kept = new(encoder("identity", {}), "nearest-mean", shape=(1,), dtype="float32")
        >>> two = Batch(jnp.array([[0.0], [9.0]]), jnp.array([0, 1]))
        >>> kept = teach(kept, two, names=["a", "b"])
        >>> kept = teach(kept, Batch(jnp.array([[4.0]]), jnp.array([0])), names=["c"])
        >>> ask(kept, np.array([[5.0], [8.0]])).names
        ['c', 'b']
    """
    known(repeated, ("skip", "count"), what="treatment of repeated examples")
    known(conflicts, ("refuse", "skip"), what="treatment of conflicting examples")
    if isinstance(examples, str | os.PathLike):
        parts, own = parts_of_folder(kept, examples, unreadable)
    else:
        parts, own = parts_of_arrays(kept, examples, names)
    listed = list(dict.fromkeys(own))
    _check_new_names(kept, listed)
    taught, skipped, before = 0, 0, kept
    conflicting: list[str] = []
    found: Sequence[str]
    given: list[Given] = []
    for part in parts:
        x = examples_of(kept, part.x)
        kept = _with_room(kept, list(dict.fromkeys(part.labels)))
        slot = {name: i for i, name in enumerate(kept.names) if name}
        y = np.array([slot[name] for name in part.labels], np.int32)
        given.append(Given(marks_of(x), part.labels, part.source))
        fresh, found = np.ones(len(y), bool), ()
        if repeated == "skip":
            fresh, found = _fresh(kept, given, y, conflicts)
        conflicting += found
        taught += int(fresh.sum())
        skipped += int((~fresh).sum()) - len(found)
        if fresh.any():
            kept = _teach_some(kept, x[fresh], y[fresh], given[-1].mark[fresh])
    _check_all_taught(kept, listed)
    warn(conflicting)
    old = set(before.classes)
    event = {
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "examples": taught,
        "skipped": skipped,
        "conflicts": len(conflicting),
        "new": [name for name in kept.classes if name not in old],
    }
    history = [*kept.provenance["taught"], event]
    return kept._replace(
        provenance={**kept.provenance, "taught": history}, calibration=None, fitted=None
    )


def forget(kept: Kept, name: str) -> Kept:
    """The learner as if one class had never been taught.

    Raises:
        ValueError: for a class that it does not know; for a rule whose statistics mix the classes,
            as those of "lda" and "ridge" do.

    Example:
        >>> from lml_jax.keep import encoder, new
        >>> kept = new(encoder("identity", {}), "nearest-mean", shape=(1,), dtype="float32")
        >>> two = Batch(jnp.array([[0.0], [9.0]]), jnp.array([0, 1]))
        >>> kept = teach(kept, two, names=["a", "b"])
        >>> forget(kept, "a").classes
        ('b',)
    """
    known(name, kept.classes or ("",), what="class")
    if kept.rule.forget is None:
        raise ValueError(
            f"the statistics of {kept.rule.name!r} mix the classes, so {name!r} cannot be "
            "forgotten exactly: keep a learner with the head nearest-mean or gaussian, or teach "
            "anew without the class"
        )
    slot = kept.names.index(name)
    state = _forget(kept.rule.forget, kept.state, jnp.asarray(slot))
    held, marks = kept.held_out, kept.marks
    taught = [{**event, "new": [n for n in event.get("new", []) if n != name]}
              for event in kept.provenance["taught"]]  # fmt: skip
    return kept._replace(
        state=state,
        names=(*kept.names[:slot], "", *kept.names[slot + 1 :]),
        held_out=HeldOut(*(part[held.y != slot] for part in held)),
        marks=Marks(*(part[marks.y != slot] for part in marks)),
        provenance={**kept.provenance, "taught": taught},
        calibration=None,
        fitted=None,
    )


_forget = jax.jit(lambda forget, state, label: forget(state, label), static_argnums=0)


@partial(jax.jit, static_argnums=0)
def _learn(
    learn: RuleLearn, params: Params, state: PyTree, z: Array, y: Array, weight: Array
) -> PyTree:
    return learn(params, state, z, y, weight)


def learned(
    rule_learn: RuleLearn, kept: Kept, state: PyTree, z: np.ndarray, y: np.ndarray
) -> PyTree:
    """The state after features were learned, or unlearned, in batches of few sizes."""
    for part, size in padded(len(y), sizes_for((kept.dim,))):
        own = np.zeros((size, kept.dim), np.float32), np.zeros(size, np.int32)
        n = part.stop - part.start
        own[0][:n], own[1][:n] = z[part], y[part]
        weight = (np.arange(size) < n).astype(np.float32)
        state = _learn(rule_learn, kept.params, state, *map(jnp.asarray, (*own, weight)))
    return state


def _check_all_taught(kept: Kept, listed: Sequence[str]) -> None:
    there = {kept.names[i] for i in np.unique(kept.marks.y).tolist()}
    for name in listed:
        if name not in there:
            raise ValueError(f"every example of the class {name!r} was taught as another class")


def _check_new_names(kept: Kept, listed: Sequence[str]) -> None:
    for name in listed:
        if not name.strip() or not name.isprintable():
            raise ValueError(f"{name!r} is no name of a class: expected printable characters")
    check_names([*kept.classes, *listed], where="this learner")


def _fresh(
    kept: Kept, given: Sequence[Given], y: np.ndarray, conflicts: Conflicts
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Which examples of the last part are new, and which were taught as another class."""
    fresh, first = earlier_class(kept.marks, given[-1].mark, y)
    found = []
    for i in np.flatnonzero(first != y).tolist():
        found.append(described(given, i, kept.names[first[i]]))
        if conflicts == "refuse":
            refuse(found[0], None if kept.pixels is None else kept.pixels.size)
    return fresh, tuple(found)


def _teach_some(kept: Kept, x: np.ndarray, y: np.ndarray, mark: np.ndarray) -> Kept:
    """The learner after some examples."""
    z = encode_all(kept.encoder.apply, kept.encoder.params, x, kept.dim)
    if not (np.abs(z) <= _LARGEST).all():
        raise ValueError(
            "the encoder gives features that are not finite, or beyond "
            f"{_LARGEST:g}, for some of the examples"
        )
    may_be, learn_now = mark, np.ones(len(y), bool)
    if kept.rule.unlearn is None:  # enough of each class must remain to be learned
        may_be = np.where(np.bincount(y)[y] >= 2 * PER_CLASS, mark, NEVER)
    held, held_here = with_held_out(kept.held_out, z, y, may_be)
    if kept.rule.unlearn is None:
        learn_now = ~held_here
    state = learned(kept.rule.learn, kept, kept.state, z[learn_now], y[learn_now])
    return kept._replace(state=state, held_out=held, marks=inserted(kept.marks, mark, y))


def _with_room(kept: Kept, listed: list[str]) -> Kept:
    """The learner with a slot for each of the names; its capacity doubles when it is full."""
    fresh = [name for name in listed if name not in kept.names]
    if not fresh:
        return kept
    names = list(kept.names)
    needed = len(kept.classes) + len(fresh)
    if needed > len(names):
        larger = capacity_for(needed, least=len(names))
        rule = kept.rule if kept.rule.resized is None else kept.rule.resized(larger)
        params, state = rule.grow(
            jax.random.key(0), kept.params, kept.state, larger, some_features(kept.dim)
        )
        kept = kept._replace(rule=rule, params=params, state=state)
        names += [""] * (larger - len(names))
    free = (i for i, name in enumerate(names) if not name)
    for i, name in zip(free, fresh, strict=False):
        names[i] = name
    return kept._replace(names=tuple(names))


def without_held_out(kept: Kept) -> PyTree:
    """The state that has never seen the held-out examples."""
    if kept.rule.unlearn is None:
        return kept.state
    return learned(kept.rule.unlearn, kept, kept.state, kept.held_out.z, kept.held_out.y)
