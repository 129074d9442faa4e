"""The families of the package and the field's baselines on one stream, at equal memory."""

from collections.abc import Callable
from pathlib import Path

from lml_jax.experiments.intervals import table
from lml_jax.experiments.lifelong.run import run_lifelong
from lml_jax.experiments.lifelong.settings import Lifelong
from lml_jax.experiments.recipe import Recipe
from lml_jax.experiments.runner import Report

FIGURES = {
    "acc": "accuracy",
    "forgetting": "forgetting",
    "learning_accuracy": "when learned",
    "fwt_adapted": "forward tr.",
}
# The first is what the others are compared with; generators come last but for the bounds.
EVERY = (
    "er", "er-ace", "derpp", "agem", "ewc", "si", "lwf", "icarl", "ncm", "ridge", "la-maml",
    "c-maml", "oml", "lifelong-maml", "memory", "lifelong-vaml", "finetune", "joint",
)  # fmt: skip


def comparison(
    learners: tuple[str, ...] = EVERY, *, seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
) -> Callable[[Lifelong], Report]:
    """Settings -> (folder, resume=False) -> report: the learners on the streams of all seeds."""

    def report_of(settings: Lifelong) -> Report:
        def run(out: Path, *, resume: bool = False) -> str:
            result = run_lifelong(settings, out, learners=learners, seeds=seeds, resume=resume)
            return table(result["runs"], FIGURES)

        return run

    return report_of


# 500 examples for whoever stores some: 50 for each of 10 tasks, or 10 for each of 50 classes.
EQUAL = Lifelong(capacity=50, per_class=10)

recipes: dict[str, Recipe] = {
    "baselines": Recipe(
        "glyphs, 10 tasks x 5 classes, class-incremental, a frozen embedding meta-trained on "
        "background scripts, 500 stored examples; the families and the baselines; 5 seeds",
        "no published value; the learners are compared with experience replay",
        EQUAL,
        comparison(),
    ),
}
