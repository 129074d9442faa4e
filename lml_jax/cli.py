"""The `lml-jax` command: a thin face over the recipes."""

import sys
from pathlib import Path
from typing import Annotated

import tyro

from lml_jax.bench import race
from lml_jax.bench.contestants import WORKLOADS
from lml_jax.checkpoint import Stopped
from lml_jax.experiments import published
from lml_jax.experiments.fewshot import run as few
from lml_jax.experiments.fewshot import settings as parts
from lml_jax.experiments.lifelong import report
from lml_jax.experiments.lifelong import settings as life
from lml_jax.experiments.lifelong.run import run_lifelong
from lml_jax.train import DivergedError

Flat = tyro.conf.arg(name="")  # the fields of a record as options of their own


def lifelong(
    settings: Annotated[life.Lifelong, Flat],
    *,
    out: Path = Path("runs/lifelong"),
    learners: tuple[str, ...] = life.LEARNERS,
    seeds: tuple[int, ...] = (0,),
    resume: bool = False,
    save_every: float = 60.0,
) -> None:
    """The three families, fine-tuning and joint training on one stream: table, metrics, figures.

    Args:
        settings: of the stream and the learners.
        out: a new folder for the results.
        learners: which learners to run.
        seeds: one run of each learner for each seed.
        resume: go on with the run that was cut in `out`, as if it had not been.
        save_every: least seconds between two checkpoints.
    """
    result = run_lifelong(
        settings, out, learners=learners, seeds=seeds, resume=resume, save_every=save_every
    )
    print(report.table(result))
    print(f"metrics.json and figures are in {out}")


def fewshot(
    settings: Annotated[parts.FewShot, Flat],
    *,
    out: Path = Path("runs/fewshot"),
    minutes: float | None = None,
    resume: bool = False,
    save_every: float = 60.0,
) -> None:
    """Meta-train and meta-test one learner: accuracy with its 95 % interval, per inner step.

    Args:
        settings: of the episodes, the learner and its training.
        out: a new folder for the results.
        minutes: stop training after so many.
        resume: go on with the run that was cut in `out`, as if it had not been.
        save_every: least seconds between two checkpoints.
    """
    record = few.run_fewshot(settings, out, minutes=minutes, resume=resume, save_every=save_every)
    print(few.table(record))
    print(f"metrics.json and the parameters are in {out}")


def reproduce(
    recipe: Annotated[str | None, tyro.conf.Positional] = None,
    *,
    list: bool = False,
    out: Path | None = None,
    resume: bool = False,
) -> None:
    """A published protocol end to end, beside its published value.

    Args:
        recipe: its name.
        list: name them all, with what each is compared with.
        out: a new folder for the results; runs/RECIPE by default.
        resume: go on with the recipe that was cut in `out`, as if it had not been.
    """
    if list or recipe is None:
        print(published.catalogue())
        return
    print(published.reproduce(recipe, out or Path("runs") / recipe, resume=resume))


def bench(
    workloads: Annotated[tuple[str, ...], tyro.conf.Positional] = tuple(WORKLOADS),
    *,
    list: bool = False,
    repeats: int = 10,
    out: Path = Path("runs/bench"),
) -> None:
    """Throughput on this machine, beside the libraries that are installed (extra: bench).

    Args:
        workloads: names; all of them by default.
        list: name them all.
        repeats: turns of each contestant, interleaved.
        out: a new folder for the results.
    """
    if list:
        print("\n".join(f"{name}\n    {work.about}" for name, work in WORKLOADS.items()))
        return
    print(race.table(race.run_races(workloads, out, repeats=repeats)))
    print(f"metrics.json and, where there are peers, rates.png are in {out}")


def main() -> None:
    """Run the command line; an error that a user can mend is one line, not a traceback."""
    try:
        tyro.extras.subcommand_cli_from_dict(
            {"lifelong": lifelong, "fewshot": fewshot, "reproduce": reproduce, "bench": bench},
            prog="lml-jax",
        )
    except (ValueError, OSError, ModuleNotFoundError, DivergedError) as error:
        sys.exit(f"lml-jax: {error}")
    except Stopped as error:
        sys.exit(f"lml-jax: {error}; --resume goes on from there")
    except KeyboardInterrupt:
        sys.exit("lml-jax: stopped; what was finished is in the output folder")
