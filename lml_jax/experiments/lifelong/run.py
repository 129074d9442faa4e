"""Lifelong learners and their baselines on one stream: the main job."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

from lml_jax.checkpoint import Keeper, keeper
from lml_jax.experiments.generator.evaluation import spread_of, watched
from lml_jax.experiments.generator.settings import Made
from lml_jax.experiments.lifelong.report import record_of, with_reference, write_figures
from lml_jax.experiments.lifelong.settings import (
    LEARNERS,
    Lifelong,
    checked,
    few_shot_of,
    made_of,
    steps_of,
    stream_of,
)
from lml_jax.experiments.record import (
    CHECKPOINTS,
    keeping_last_good,
    open_folder,
    resumable,
    save_params,
    write_metrics,
)
from lml_jax.lifelong.run import StreamRun, run_stream
from lml_jax.types import Learner, Params

SAMPLES = 60  # of each class, for the spread of what a generator makes
COLLAPSE = 0.5  # warn below this spread


def run_lifelong(
    settings: Lifelong,
    out: str | Path,
    *,
    learners: tuple[str, ...] = LEARNERS,
    seeds: tuple[int, ...] = (0,),
    start: Callable[[int, Learner], Params] | None = None,
    resume: bool = False,
    save_every: float = 60.0,
    progress: bool = True,
) -> dict[str, Any]:
    """Run every learner with every seed; write metrics, figures and parameters into `out`.

    `metrics.json` is written anew after each task; a run that is not through says how many tasks
    it has finished. Each learner and seed has checkpoints of its own.

    Args:
        settings: what to run.
        out: a folder that is absent or empty; with `resume`, also one of a run that was cut.
        learners: among `LEARNERS`.
        seeds: each makes its own stream, start and episodes, shared by the learners.
        start: (seed, few-shot learner) -> parameters to begin from; None for new ones.
        resume: go on from the newest checkpoints in `out`, bit for bit.
        save_every: least seconds between two checkpoints.
        progress: show a bar.

    Returns:
        What `metrics.json` holds.

    Raises:
        ValueError: for settings that cannot be run, before anything is trained; for checkpoints
            of other settings.
        train.DivergedError: if a loss was not finite; what was written so far is kept, and the last
            good parameters are in `last_good_LEARNER_seedS.npz`.
        checkpoint.Stopped: after SIGTERM or Ctrl-C, when everything was saved.
    """
    settings = checked(settings, learners, seeds)
    # Everything is built before anything is trained, so that no error costs a run.
    made = []
    for seed in seeds:
        stream = stream_of(settings, seed)
        few_shot = few_shot_of(settings, stream.classes)
        built = {name: made_of(name, settings, few_shot, stream) for name in learners}
        made.append((seed, few_shot, built))
    folder = open_folder(out, resume=resume)
    runs: list[dict[str, Any]] = []

    def write(record: dict[str, Any]) -> None:
        write_metrics(folder, {"runs": with_reference([*runs, record])})

    for seed, few_shot, built in made:
        begin = None if start is None else start(seed, few_shot)
        for name, parts in built.items():
            about = f"{name}_seed{seed}"
            kept = keeper(
                folder / CHECKPOINTS / about,
                config={**resumable(settings), "learner": name, "seed": seed},
                every=save_every,
            )
            with keeping_last_good(folder, about=about), kept as keeping:
                run, record = run_one(
                    settings, name, seed, parts, begin, folder, write, progress, keeping
                )
            runs.append(record)
            save_params(folder, run.state.train.params, name=f"params_{about}")
    result = {"runs": with_reference(runs)}
    write_metrics(folder, result)
    write_figures(folder, result)
    return result


def run_one(
    settings: Lifelong,
    name: str,
    seed: int,
    made: Made,
    begin: Params | None,
    folder: Path,
    on_record: Callable[[dict[str, Any]], None],
    progress: bool,
    keeper: Keeper,
) -> tuple[StreamRun, dict[str, Any]]:
    """The run of one learner with one seed, and its record, of which `on_record` is told each row.

    What a generator makes after each task is drawn into `folder`.
    """
    steps, stream = steps_of(settings), made.stream
    judge = made.generator and spread_of(stream, made.generator, samples=SAMPLES)
    where: Any = {"about": name, "seed": seed, "folder": folder, "collapse": COLLAPSE}
    records: dict[int, dict[str, Any]] = {}

    def on_row(row: int, so_far: StreamRun) -> None:
        record = record_of(settings, name, seed, row, so_far)
        if judge and row:
            record |= watched(judge, stream, so_far.state.generator, row, **where)
        records[row] = record
        on_record(record)

    about = f"{name}, seed {seed}"
    with tqdm(total=stream.tasks * steps, disable=not progress, unit="step", desc=about) as bar:

        def on_chunk(task: int, done: int, values: Any) -> None:
            bar.set_postfix(task=task, loss=f"{float(values['loss'].mean()):.3f}")
            bar.update(task * steps + done - bar.n)

        run = run_stream(
            made.learner,
            stream,
            jax.random.key(seed),
            steps=steps,
            scan=settings.net == "mlp",
            task_incremental=settings.scenario == "task",
            params=begin,
            on_chunk=on_chunk,
            on_row=on_row,
            keeper=keeper,
        )
    if stream.tasks not in records:  # kept whole, so that there was no row to learn
        on_row(stream.tasks, run)
    return run, records[stream.tasks]
