"""The scaffold of every run: its folder, checkpoints, last good state, seeds, records and resume.

An `Experiment` is one kind of run as three functions: build, train, test. `run` gives it a folder
and writes its record. `run_parts` does so for several runs in one folder: learners or arms by
seeds.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from lml_jax.checkpoint import Config, Keeper, keeper
from lml_jax.experiments.folder import CHECKPOINTS, last_good, opened
from lml_jax.experiments.log import Log, ignore, to_file
from lml_jax.experiments.record import Record, read_metrics, versions, write_metrics
from lml_jax.metrics import to_json

Settings = TypeVar("Settings")
Built = TypeVar("Built")
Trained = TypeVar("Trained")
Report = Callable[..., str]  # (folder, resume=False) -> a report to print


class Place(NamedTuple):
    """Where a run writes, and what it was told about saving and showing progress.

    `about` names the run among several in `folder`; it is empty where there is one. `log` is told
    the metrics of each chunk of updates.
    """

    folder: Path
    about: str = ""
    minutes: float | None = None
    save_every: float = 60.0
    progress: bool = True
    log: Log = ignore

    @property
    def hidden(self) -> bool | None:
        """`disable` of a progress bar: None hides it where the output is no terminal."""
        return None if self.progress else True

    @contextmanager
    def keeping(self, config: Config, *, part: str = "") -> Iterator[Keeper]:
        """Checkpoints of one training, resumed if there are any; see `checkpoint.keeper`.

        If the training diverges, its last good state is written too.
        """
        path = self.folder / CHECKPOINTS / self.about / part
        about = "_".join(name for name in (self.about, part) if name)
        kept = keeper(path, config=config, every=self.save_every)
        with last_good(self.folder, about=about), kept as keeping:
            yield keeping


class Experiment(NamedTuple, Generic[Settings, Built, Trained]):
    """One kind of run.

    Attributes:
        build: settings -> everything the run is made of. Whatever can be refused is refused here,
            with ValueError, before a folder is made.
        train: (built, place) -> (what was trained, seconds by phase).
        test: (built, trained, place) -> scores. May write files of its own.
        table: a record as text.
        config: settings for the record, resolved.
        figures: draws a record into a folder.
        seeded: the same settings with another seed.
    """

    build: Callable[[Settings], Built]
    train: Callable[[Built, Place], tuple[Trained, dict[str, float]]]
    test: Callable[[Built, Trained, Place], Record]
    table: Callable[[Record], str]
    config: Callable[[Built], Record]
    figures: Callable[[Record, Path], None] = lambda record, folder: None
    seeded: Callable[[Settings, int], Settings] = lambda settings, seed: replace(
        settings,  # type: ignore[type-var]
        seed=seed,
    )


def run(
    experiment: Experiment[Settings, Built, Trained],
    settings: Settings,
    out: str | os.PathLike[str],
    *,
    minutes: float | None = None,
    resume: bool = False,
    save_every: float = 60.0,
    progress: bool = True,
    log: Log = ignore,
) -> Record:
    """Build, train, test, and write `metrics.json` and figures into `out`.

    Args:
        experiment: what kind of run.
        settings: what to run.
        out: a folder that is absent or empty; with `resume`, also that of an interrupted run.
        minutes: maximum training time, > 0; None for no limit.
        resume: continue from the newest checkpoint in `out`, bit-identical to an uninterrupted run.
        save_every: minimum seconds between checkpoints, >= 0.
        progress: show progress bars, where the output is a terminal.
        log: told the metrics of each chunk of updates, as is `log.jsonl` in `out`.

    Returns:
        The record written.

    Raises:
        ValueError: for settings that cannot be run, before anything is trained; for checkpoints
            of other settings.
        train.DivergedError: if a loss or gradient was not finite; the last good parameters are in
            `last_good.npz`.
        checkpoint.Stopped: after SIGTERM or Ctrl-C, when everything was saved.
    """
    check_time(minutes, save_every)
    built = experiment.build(settings)
    with opened(out, resume=resume) as folder:
        place = Place(folder, "", minutes, save_every, progress, to_file(folder, log))
        trained, seconds = experiment.train(built, place)
        begun = time.perf_counter()
        scores = experiment.test(built, trained, place)
        record = {
            **scores,
            "seconds": {**seconds, "eval": time.perf_counter() - begun},
            "config": experiment.config(built),
            "versions": versions(),
        }
        write_metrics(folder, record)
        experiment.figures(record, folder)
    return record


def over_seeds(
    experiment: Experiment[Settings, Built, Trained],
    settings: Settings,
    *,
    seeds: int = 1,
    minutes: float | None = None,
    joined: Callable[[list[Record]], str] = lambda records: "",
) -> Report:
    """(folder, resume=False) -> report: seeds 0, 1, ... in a folder each.

    `joined` reports on all records together; `metrics.json` of the outer folder lists them.
    """

    def all_seeds(out: Path, *, resume: bool = False, progress: bool = True) -> str:
        with opened(out, resume=resume) as folder:
            records, reports = [], []
            for seed in range(seeds):
                record = run(
                    experiment,
                    experiment.seeded(settings, seed),
                    folder / f"seed{seed}",
                    minutes=minutes,
                    resume=resume,
                    progress=progress,
                )
                records.append(record)
                reports.append(f"seed {seed}, {spent(record)}\n{experiment.table(record)}")
                write_metrics(folder, {"runs": records})
        return "\n\n".join(text for text in (*reports, joined(records)) if text)

    return all_seeds


def spent(record: Record) -> str:
    """Updates and seconds of a record, as text."""
    phases = ", ".join(f"{name} {value:.0f} s" for name, value in record["seconds"].items())
    return f"{record['steps']} steps; {phases}" if "steps" in record else phases


class Part(NamedTuple):
    """One of several runs in one folder.

    Attributes:
        key: what its record is found by, as {"learner": "memory", "seed": 0}.
        config: settings that a record in the folder must agree with to be kept.
        run: (place, the record so far or {}, publish) -> record; `publish` writes a record of a
            run that has not finished.
    """

    key: Mapping[str, str | int]
    config: Record
    run: Callable[[Place, Record, Callable[[Record], None]], Record]

    @property
    def about(self) -> str:
        """Its name in files."""
        *names, seed = self.key.values()
        return "_".join([*map(str, names), f"seed{seed}"])


def run_parts(
    parts: Sequence[Part] | Callable[[Place], Sequence[Part]],
    out: str | os.PathLike[str],
    *,
    finish: Callable[[list[Record]], list[Record]] = lambda records: records,
    figures: Callable[[Record, Path], None] = lambda result, folder: None,
    resume: bool = False,
    save_every: float = 60.0,
    progress: bool = True,
    log: Log = ignore,
) -> Record:
    """Run all parts into `out` one after another; `metrics.json` is {"runs": [record, ...]}.

    It is written each time a part publishes. With `resume`, records of other learners, arms or
    seeds in the folder stay, so that a finished run can be extended.

    Args:
        parts: what to run, at least one; or a function that makes them once the folder is open.
        out: as in `run`.
        finish: adds to the records what depends on all of them.
        figures: draws the result into the folder.
        resume: as in `run`.
        save_every: as in `run`.
        progress: as in `run`.
        log: as in `run`.

    Returns:
        What `metrics.json` holds.

    Raises:
        ValueError: for records of other settings in the folder; as `run` otherwise.
    """
    with opened(out, resume=resume) as folder:
        common = Place(folder, "", None, save_every, progress, to_file(folder, log))
        if callable(parts):
            parts = parts(common)
        names = tuple(parts[0].key)
        found = read_metrics(folder).get("runs", [])
        records = {tuple(record.get(name) for name in names): record for record in found}
        for part in parts:
            _check_same(records.get(tuple(part.key.values()), {}), part, folder)

        def write(part: Part, record: Record) -> Record:
            records[tuple(part.key.values())] = {**part.key, **record}
            result = {"runs": finish(list(records.values()))}
            write_metrics(folder, result)
            return result

        def publish(part: Part, record: Record) -> None:
            write(part, record)

        for part in parts:
            place = common._replace(about=part.about)
            so_far = records.get(tuple(part.key.values()), {})
            record = part.run(place, so_far, partial(publish, part))
            result = write(part, record)
        figures(result, folder)
    return result


def _check_same(record: Record, part: Part, folder: Path) -> None:
    """Raise ValueError if a record in the folder was made with other settings than the part's."""
    was, wanted = record.get("config"), to_json(part.config)
    if was is None:
        return
    differing = [
        f"{name} is {was.get(name)!r} there, {value!r} here"
        for name, value in wanted.items()
        if was.get(name) != value and name != "data_dir"
    ]
    if differing:
        raise ValueError(
            f"{folder / 'metrics.json'} holds {part.about} with other settings: "
            f"{', '.join(differing)}"
        )


def check_time(minutes: float | None, save_every: float) -> None:
    """Raise ValueError for a time limit that is not above 0, or a negative interval."""
    if minutes is not None and not minutes > 0:
        raise ValueError(f"minutes must be above 0, got {minutes}")
    if not save_every >= 0:
        raise ValueError(f"save_every must be at least 0 seconds, got {save_every}")
