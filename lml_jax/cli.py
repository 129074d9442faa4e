"""The `lml-jax` command."""

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from json import dumps
from pathlib import Path
from typing import Annotated, Any

import tyro

from lml_jax.checkpoint import Stopped
from lml_jax.compiled import keep_compiled_programs
from lml_jax.experiments import published
from lml_jax.experiments.choices import literals, several_of
from lml_jax.experiments.fewshot.report import table as few_shot_table
from lml_jax.experiments.fewshot.run import run_fewshot
from lml_jax.experiments.fewshot.settings import FewShot
from lml_jax.experiments.kept import commands as kept
from lml_jax.experiments.lifelong.learners import FAMILIES
from lml_jax.experiments.lifelong.report import table as lifelong_table
from lml_jax.experiments.lifelong.run import run_lifelong
from lml_jax.experiments.lifelong.settings import Lifelong
from lml_jax.experiments.page import write_page
from lml_jax.experiments.record import Record
from lml_jax.experiments.registry import lifelong_learners
from lml_jax.metrics import to_json
from lml_jax.train import DivergedError

Flat = tyro.conf.arg(name="")  # the fields of a record as options of their own


def lifelong(
    settings: Annotated[Lifelong, Flat],
    *,
    out: Path = Path("runs/lifelong"),
    learners: Annotated[tuple[str, ...], several_of(lifelong_learners)] = FAMILIES,
    seeds: tuple[int, ...] = (0,),
    seeds_together: bool = False,
    resume: bool = False,
    save_every: float = 60.0,
    quiet: bool = False,
    json: bool = False,
) -> None:
    """Lifelong learners on one stream of tasks, with a lower and an upper bound.

    The learners are first meta-trained on classes that the stream does not have; the result is
    cached, so that a second run begins at the stream.

    Args:
        settings: settings of the stream and the learners.
        out: new folder for the results.
        learners: learners to run.
        seeds: one run of each learner for each seed.
        seeds_together: run all seeds of a learner as one program, which is faster on a GPU.
        resume: resume the interrupted run in `out`, or add learners and seeds to a finished one.
        save_every: minimum seconds between checkpoints.
        quiet: no progress bars.
        json: print the contents of metrics.json instead of the table.
    """
    result = run_lifelong(
        settings, out, learners=learners, seeds=seeds, seeds_together=seeds_together,
        resume=resume, save_every=save_every, progress=not quiet,
    )  # fmt: skip
    text = lifelong_table(result, bold=sys.stdout.isatty())
    show(as_json(result) if json else f"{text}\nmetrics.json and figures are in {out}")


def fewshot(
    settings: Annotated[FewShot, Flat],
    *,
    out: Path = Path("runs/fewshot"),
    minutes: float | None = None,
    resume: bool = False,
    save_every: float = 60.0,
    quiet: bool = False,
    json: bool = False,
) -> None:
    """Meta-train and meta-test one few-shot learner: accuracy with its 95 % interval.

    Args:
        settings: settings of the episodes, the learner and its training.
        out: new folder for the results.
        minutes: maximum training time, in minutes.
        resume: resume the interrupted run in `out`.
        save_every: minimum seconds between checkpoints.
        quiet: no progress bars.
        json: print the contents of metrics.json instead of the table.
    """
    record = run_fewshot(
        settings, out, minutes=minutes, resume=resume, save_every=save_every, progress=not quiet
    )
    text = f"{few_shot_table(record)}\nmetrics.json and the parameters are in {out}"
    show(as_json(record) if json else text)


def reproduce(
    recipe: Annotated[str | None, tyro.conf.Positional] = None,
    *,
    list: bool = False,
    out: Path | None = None,
    data_dir: str | None = None,
    quick: bool = False,
    resume: bool = False,
) -> None:
    """Run a published protocol from beginning to end and compare it with its published value.

    Args:
        recipe: name of the recipe.
        list: list the recipes and exit.
        out: new folder for the results; runs/RECIPE by default.
        data_dir: folder of prepared data.
        quick: a smaller protocol that takes minutes, for recipes that have one.
        resume: resume the interrupted recipe in `out`.
    """
    if list or recipe is None:
        show(published.catalogue())
        return
    folder = out or Path("runs") / recipe
    show(published.reproduce(recipe, folder, data_dir=data_dir, quick=quick, resume=resume))


def report(run: Annotated[Path, tyro.conf.Positional]) -> None:
    """Write the report of a run as one HTML file: settings, scores, figures, versions.

    Args:
        run: folder of a run of `lifelong` or `fewshot`.
    """
    show(str(write_page(run)))


def as_json(record: Record) -> str:
    """A record as it is in metrics.json."""
    return dumps(to_json(record), allow_nan=False)


@contextmanager
def warnings_at_the_end() -> Iterator[None]:
    """Print each warning once, after everything else; a progress bar would tear it apart."""
    said: dict[str, None] = {}

    def keep(message: Warning | str, *about: object, **more: object) -> None:
        said[str(message)] = None

    with warnings.catch_warnings():
        warnings.showwarning = keep
        try:
            yield
        finally:
            for text in said:
                print(f"warning: {text}", file=sys.stderr)


def shown(command: Callable[..., str]) -> Callable[..., None]:
    """A command whose report is printed, and which replaces a file only by a complete one."""

    @wraps(command)
    def run(*args: Any, **options: Any) -> None:
        try:
            show(command(*args, **options))
        except KeyboardInterrupt:
            sys.exit("lml-jax: stopped; a file is replaced only once the new one is complete")

    return run


def show(text: str) -> None:
    """Print; characters that the output cannot encode are replaced, so that no result is lost."""
    encoding = sys.stdout.encoding or "utf-8"
    try:
        print(text.encode(encoding, errors="replace").decode(encoding), flush=True)
    except BrokenPipeError:  # the reader has gone, as `head` does; the files are written
        with suppress(OSError):
            sys.stdout.close()


def main() -> None:
    """Run the command line; an error that a user can mend is one line, not a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # help and progress bars too
            stream.reconfigure(errors="replace")
    commands: dict[str, Callable[..., Any]] = {
        "lifelong": lifelong,
        "fewshot": fewshot,
        "reproduce": reproduce,
        "report": report,
        **{name: shown(getattr(kept, name)) for name in ("teach", "ask", "show", "export")},
    }
    try:
        keep_compiled_programs()
        with literals(), warnings_at_the_end():
            tyro.extras.subcommand_cli_from_dict(commands, prog="lml-jax")
    except (ValueError, OSError, ModuleNotFoundError, DivergedError) as error:
        sys.exit(f"lml-jax: {error}")
    except Stopped as error:
        sys.exit(f"lml-jax: {error}; continue with --resume")
    except KeyboardInterrupt:
        sys.exit("lml-jax: stopped; what was finished is in the output folder")
