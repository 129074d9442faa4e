"""The commands of a kept learner."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from lml_jax import keep, plots
from lml_jax._ownership import owned_file
from lml_jax.atomic_write import replacing
from lml_jax.data.folder import Unreadable, image_files
from lml_jax.experiments import own_data
from lml_jax.experiments.choices import one_of
from lml_jax.experiments.kept.checks import (
    check_arrays,
    check_images,
    check_no_input,
    check_writable,
    colour_explained,
)
from lml_jax.experiments.kept.lifelong import rules
from lml_jax.experiments.kept.start import DEFAULT_PIXELS, begin_with, default_begin, inverts
from lml_jax.heads import HEADS
from lml_jax.keep.asking import held_out_logits, uncalibrated
from lml_jax.keep.export import exported
from lml_jax.keep.teaching import Conflicts
from lml_jax.types import Dataset

File = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="KEPT")]
_ROWS = 40  # of a table


@colour_explained()
def teach(
    kept: File,
    folder: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FOLDER")],
    *,
    encoder: str | None = None,
    head: Annotated[str, one_of(HEADS)] | None = None,
    invert: bool | None = None,
    start_steps: int = 500,
    unreadable: Unreadable = "skip",
    conflicts: Conflicts = "refuse",
) -> str:
    """Teach a learner the classes of a folder; it is made if the file is absent.

    Examples that were taught before are skipped, so that a folder which has grown is taught again
    by the same command.

    Args:
        kept: file of the learner.
        folder: a folder of class folders; or a .npz or .csv file, X.npy,Y.npy or tfds:NAME.
        encoder: of a new learner: efficientnet-lite0, trained on ImageNet, for photos in colour;
            or the folder of a `lml-jax fewshot` run. By default an embedding of characters, which
            is meta-trained once and cached.
        head: of a new learner; by default the one that the encoder was trained with, or lda.
        invert: of a new learner: invert image files, dark ink on bright paper. By default, if most
            pixels are bright and the encoder is of characters; with one that was trained on images
            of your own, never.
        start_steps: updates of the meta-training, where the embedding is not cached.
        unreadable: skip files that cannot be read with a warning, or refuse them.
        conflicts: refuse an image that is in two classes, or skip it with a warning where it comes
            for the second time.
    """
    check_writable(kept)
    with owned_file(kept):
        before = _state_of(kept)
        data = None if Path(folder).is_dir() else _loaded(folder)
        if kept.exists():
            if encoder is not None or head is not None or invert is not None:
                raise ValueError(
                    f"{kept} exists, and keeps its encoder, its head and how it reads images: "
                    "give encoder, head and invert with a new file"
                )
            learner = _load(kept)
        else:
            learner = _new(folder, data, encoder, head, invert, start_steps)
        given = folder if data is None else data
        taught = keep.teach(learner, given, unreadable=unreadable, conflicts=conflicts)
        taught = keep.ready(taught)
        _check_unchanged(kept, before)
        keep.save(kept, taught)
    event = taught.provenance["taught"][-1]
    new = event["new"]
    return (
        f"taught {event['examples']} examples ({event['skipped']} were taught before); "
        f"{len(taught.classes)} classes, {len(new)} of them new\n{_measured(taught)}; "
        f"{kept} is {_size(kept)}\n{_takes(taught)}"
    )


def ask(
    kept: File,
    images: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="IMAGES...")],
    *,
    out: Path | None = None,
    reject: bool = False,
    threshold: float | None = None,
) -> str:
    """Name the class of images, with its probability.

    Args:
        kept: file of the learner.
        images: files, or folders of files.
        out: write a CSV file instead of a table.
        reject: answer "none of these" for images of no class that the learner knows.
        threshold: the probability of being of a known class below which an image is rejected,
            with --reject; 0.5 by default.
    """
    if threshold is not None and not reject:
        raise ValueError(f"threshold {threshold} is used with --reject alone: give both")
    learner = _load(kept)
    if not images:
        raise ValueError("nothing to ask: expected image files or folders")
    files = image_files(images)
    least = (0.5 if threshold is None else threshold) if reject else None
    answers = keep.ask_files(learner, files, reject=least)
    if out is not None:
        check_no_input(out, [kept, *files])
        return _as_csv(answers, out)
    rows = [f"{'probability':>11s}  class"]
    width = max((len(name) for name in learner.classes), default=0)
    failed = 0
    for answer in answers:
        if answer.error:
            failed += 1
            rows.append(f"{'':11s}  {answer.error}")
        else:
            rows.append(f"{answer.probability:11.3f}  {answer.name:{width}s}  {answer.file}")
    if failed == len(files):
        raise ValueError("\n".join(["no file could be read", *rows[1:]]))
    return "\n".join(rows)


def show(kept: File, *, figure: Path | None = None) -> str:
    """Say what a learner knows: classes, examples, bytes, accuracy on held-out examples.

    Args:
        kept: file of the learner.
        figure: write which classes are taken for which to this file.
    """
    if figure is not None:
        check_no_input(figure, [kept])
    learner = keep.ready(_load(kept))
    y = learner.held_out.y
    counts = np.bincount(learner.marks.y, minlength=len(learner.names))
    lines = [
        f"{len(learner.classes)} classes, {learner.examples} examples, {_size(kept)}",
        f"head {learner.rule.name}, encoder {learner.encoder.name} of {learner.dim} features, "
        f"examples {learner.dtype} {list(learner.shape)}",
        _measured(learner),
    ]
    slots = [i for i, name in enumerate(learner.names) if name]
    right = np.zeros(len(learner.names))
    if len(y):
        best = held_out_logits(learner).argmax(1)
        np.add.at(right, y, best == y)
    if figure is not None:
        if not len(y):
            raise ValueError("there is no held-out example to draw: teach more of each class")
        confused = np.zeros((len(learner.names),) * 2)
        np.add.at(confused, (y, best), 1)
        drawn = plots.confusion(confused[np.ix_(slots, slots)], learner.classes)
        lines.append(f"which classes are taken for which: {plots.save(drawn, figure)}")
    held = np.bincount(y, minlength=len(learner.names))
    width = max([5, *map(len, learner.classes)])
    lines.append(f"{'class':{width}s} {'examples':>8s} {'right / held out':>16s}")
    for i in slots[:_ROWS]:
        share = f"{int(right[i])} / {held[i]}"
        lines.append(f"{learner.names[i]:{width}s} {counts[i]:8d} {share:>16s}")
    if len(slots) > _ROWS:
        lines.append(f"... and {len(slots) - _ROWS} more")
    return "\n".join(lines)


def export(kept: File, *, out: Path | None = None) -> str:
    """Write a learner as a StableHLO artefact, which answers without this library.

    Args:
        kept: file of the learner.
        out: KEPT.stablehlo by default; what it answers is in OUT.json.
    """
    path = out or kept.with_name(f"{kept.name}.stablehlo")
    for written in (path, Path(f"{path}.json")):
        check_no_input(written, [kept])
    exported(path, _load(kept))
    return f"{path} is {_size(path)}; {path}.json says what it takes and answers"


def _new(
    folder: str,
    data: Dataset | None,
    encoder: str | None,
    head: str | None,
    invert: bool | None,
    start_steps: int,
) -> keep.Kept:
    """A learner for what is about to be taught; what it cannot take is refused before training."""
    if data is not None and np.ndim(data.x) == 2:  # features: of any encoder
        if encoder is not None:
            raise ValueError(f"{folder} holds features, which take no encoder, got {encoder}")
        width = data.x.shape[1]
        check_arrays(folder, data, DEFAULT_PIXELS, invert=invert)
        identity = keep.encoder("identity", {})
        return keep.new(identity, head or "lda", shape=(width,), dtype="float32")
    given = None if encoder is None else begin_with(encoder)
    pixels = DEFAULT_PIXELS if given is None else given.pixels
    if data is None:
        check_images(folder, pixels)
    else:
        if given is not None and given.any_size and np.ndim(data.x) == 4:
            height, width = data.x.shape[1:3]
            pixels = pixels._replace(size=(height, width))
        check_arrays(folder, data, pixels, invert=invert)
    begin = default_begin(steps=start_steps) if given is None else given
    if data is None:
        pixels = pixels._replace(invert=inverts(folder, begin) if invert is None else invert)
    own = begin.head_params if head in (None, begin.head) else None
    return keep.new(
        begin.encoder,
        head or begin.head,
        pixels=pixels,
        head_params=own,
        origin=begin.origin,
    )


def _load(path: Path) -> keep.Kept:
    return keep.load(path, rules=rules())


def _loaded(source: str) -> Dataset:
    load = own_data.loader_of(source)
    if load is None:
        raise FileNotFoundError(f"there is no {source}, expected {own_data.SOURCES}")
    return load(28, None)[0]


def _state_of(path: Path) -> object:
    return (path.stat().st_mtime_ns, path.stat().st_size) if path.exists() else None


def _check_unchanged(path: Path, before: object) -> None:
    """Raise OSError if a process that does not own the file has written it, as `keep.save` may."""
    if _state_of(path) != before:
        raise OSError(f"{path} was changed by another process in the meantime: teach again")


def _as_csv(answers: Iterator[keep.FileAnswer], out: Path) -> str:
    count = failed = 0
    # File names are any bytes: those that are no UTF-8 are written as they are.
    with (
        replacing(out) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(["file", "class", "probability", "known", "error"])
        for answer in answers:
            count += 1
            failed += bool(answer.error)
            numbers = ["", ""]
            if not answer.error:
                numbers = [f"{answer.probability:.6f}", f"{answer.known:.6f}"]
            writer.writerow([str(answer.file), answer.name, *numbers, answer.error])
    if failed == count:
        raise ValueError(f"no file could be read, of {count}; {out} says why")
    return f"{count} answers are in {out}"


def _takes(learner: keep.Kept) -> str:
    """What it is asked with."""
    if learner.pixels is None:
        return "it takes arrays, and no image files: ask it in Python, with `keep.ask`"
    height, width = learner.pixels.size
    how = "inverted (dark ink on bright paper)" if learner.pixels.invert else "not inverted"
    return f"image files are read as {height}x{width} {learner.pixels.channels}, {how}"


def _measured(learner: keep.Kept) -> str:
    assert learner.calibration is not None
    if not learner.calibration.examples:
        return f"no held-out example yet; {uncalibrated(learner)}"
    text = (
        f"accuracy {100 * learner.calibration.accuracy:.1f} % on "
        f"{learner.calibration.examples} held-out examples"
    )
    why = uncalibrated(learner)
    return f"{text}; {why}" if why else text


def _size(path: Path) -> str:
    n = path.stat().st_size
    return f"{n / 2**20:.1f} MiB" if n >= 2**20 else f"{n / 2**10:.0f} KiB"
