"""Published protocols by name, each beside the value it is compared with."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lml_jax.checks import known
from lml_jax.experiments.fewshot.run import run_fewshot, table
from lml_jax.experiments.fewshot.sequence import sequence
from lml_jax.experiments.fewshot.settings import FewShot
from lml_jax.experiments.fewshot.ways_and_shots import cells
from lml_jax.experiments.generator import published as generative
from lml_jax.experiments.lifelong.ablation import HISTORY, TRANSFER, ablation
from lml_jax.experiments.record import Recipe, open_folder

SINE = FewShot(
    data="sine",
    ways=1,
    shots=10,
    test_shots=5,
    train_queries=10,
    queries=5,
    steps=70_000,
    episodes=10_000,
    meta_batch=25,
    inner_rate=0.001,
    report_step=1,
)
OMNIGLOT = FewShot(data="omniglot", steps=60_000, meta_batch=32)
# Where steps are few: fewer tasks and more queries in each, a schedule that ends, at the same cost
# as 16 tasks of one query. After 1,000 steps it is 2 points ahead of those.
SHORT = replace(OMNIGLOT, steps=2_000, meta_batch=8, train_queries=5, schedule="cosine")
# An embedding for the sequence of 600 classes; as many steps as 45 minutes on two CPU cores take.
SEQUENCE = FewShot(
    learner="gemcl",
    data="omniglot",
    split="background/evaluation",
    ways=20,
    train_ways=40,
    steps=2_800,
    schedule="cosine",
)
METRIC = replace(SEQUENCE, learner="protonet", split="vinyals", steps=2_000)


def few_shot(settings: FewShot, *, seeds: int = 1, minutes: float | None = None) -> Callable:
    """Runs `settings` with seeds 0, 1, ... into a folder each."""

    def run(out: Path, *, resume: bool = False) -> str:
        reports, records = [], []
        open_folder(out, resume=resume)
        for seed in range(seeds):
            record = run_fewshot(
                replace(settings, seed=seed), out / f"seed{seed}", minutes=minutes, resume=resume
            )
            records.append(record)
            reports.append(
                f"seed {seed}, {record['steps']} steps, trained in "
                f"{record['seconds']['train']:.0f} s, tested in {record['seconds']['eval']:.0f} s\n"
                + table(record)
            )
        return "\n\n".join([*reports, over_seeds(records)])

    return run


def over_seeds(records: list[dict[str, Any]]) -> str:
    """Means over seeds, after each inner step."""
    if len(records) < 2:
        return ""
    lines = [f"mean over {len(records)} seeds, after 0, 1, ... inner steps"]
    for key in records[0]:
        if key.endswith("per_inner_step"):
            mean = np.mean([record[key] for record in records], axis=0)
            lines.append(f"{key:32s}" + " ".join(f"{value:.4f}" for value in mean))
    return "\n".join(lines)


RECIPES = {
    "sine-maml": Recipe(
        "sine, MAML trained with K = 10, tested with K = 5; 3 seeds",
        "Finn et al. 2017, table 2: MSE 0.67 / 0.38 / 0.35 after 1 / 5 / 10 steps",
        few_shot(SINE, seeds=3),
    ),
    "sine-meta-sgd": Recipe(
        "the same with one learned step size per parameter; 3 seeds",
        "PARL's reimplementation of MAML++: 0.34 ± 0.01",
        few_shot(replace(SINE, learner="meta-sgd", inner_rate=0.01), seeds=3),
    ),
    "sine-maml++": Recipe(
        "the same with five learned step sizes per array, the last repeated at test; 3 seeds",
        "PARL's reimplementation of MAML++: 0.34 ± 0.01",
        few_shot(
            replace(SINE, learner="maml++", inner_steps=5, report_step=10, steps=20_000), seeds=3
        ),
    ),
    "omniglot-maml": Recipe(
        "Omniglot 5-way 1-shot, maml-random, second order; the full 60,000 steps, for a GPU",
        "Finn et al. 2017, table 1: 98.7 ± 0.4 %",
        few_shot(OMNIGLOT),
    ),
    "omniglot-maml-45min": Recipe(
        "the same, as far as 45 minutes on two CPU cores go",
        "Finn et al. 2017, table 1: 98.7 ± 0.4 %",
        few_shot(replace(SHORT, steps=8_000), minutes=45),
    ),
    "omniglot-maml-group": Recipe(
        "the same with GroupNorm, 2,000 steps",
        "none with this normalisation",
        few_shot(replace(SHORT, batch_statistics="group"), minutes=15),
    ),
    "omniglot-maml-background": Recipe(
        "the same on background/evaluation, 2,000 steps",
        "none for MAML on this split",
        few_shot(replace(SHORT, split="background/evaluation"), minutes=15),
    ),
    "omniglot-sequence": Recipe(
        "600 of Omniglot's evaluation classes learned one after another, 15 images each; 20 draws",
        "held-out accuracy at 600: ANML 63.8 %; at 84x84 ProtoNet 83.7 %, GeMCL 86.9 %",
        sequence(SEQUENCE),
    ),
    "omniglot-sequence-84": Recipe(
        "the same at 84x84 with GeMCL's own schedule, 20 ways, 5 + 15 images, rate halved every "
        "2,000 steps; 3 trainings, for a GPU",
        "GeMCL 86.9 %, ProtoNet 83.7 %",
        sequence(
            replace(
                SEQUENCE,
                size=84,
                train_ways=20,
                train_queries=15,
                steps=20_000,
                schedule="halving",
            ),
            seeds=3,
        ),
    ),
    "omniglot-protonet": Recipe(
        "Omniglot, ProtoNet, vinyals: four cells from one network, as far as two CPU cores go",
        "Snell et al. 2017: 98.8 / 99.7 / 96.0 / 98.9 % (5w1s, 5w5s, 20w1s, 20w5s)",
        cells(METRIC),
    ),
    "omniglot-matching": Recipe(
        "the same with Matching Networks, cosine and learned temperature",
        "Vinyals et al. 2016: 98.1 / 98.9 / 93.8 / 98.5 %",
        cells(replace(METRIC, learner="matching")),
    ),
    "omniglot-protonet-full": Recipe(
        "ProtoNet's own schedule, 60 ways, rate halved every 2,000 steps, for a GPU",
        "Snell et al. 2017: 98.8 / 99.7 / 96.0 / 98.9 %",
        cells(replace(METRIC, train_ways=60, steps=20_000, schedule="halving")),
    ),
    "history": Recipe(
        "lifelong MAML on 10 Omniglot alphabets x 5 classes, lambda in none, 0.5, 0.9, 1; 5 seeds, "
        "from a meta-trained start",
        "no published value; the arms are compared with each other",
        ablation("lifelong-maml", HISTORY, meta_trained=True),
    ),
    "history-from-nothing": Recipe(
        "the same from new parameters",
        "no published value; the arms are compared with each other",
        ablation("lifelong-maml", HISTORY),
    ),
    "transfer": Recipe(
        "the memory learner (ProtoNet) on the same streams from new parameters, with the weight of "
        "its knowledge transfer in 0, 0.3, 1, and recall by stored statistics; 5 seeds",
        "no published value; the arms are compared with each other",
        ablation("memory", TRANSFER),
    ),
    **generative.RECIPES,
}


def catalogue() -> str:
    """Every recipe, with what it runs and what it is compared with."""
    return "\n".join(f"{name}\n    {r.about}\n    {r.published}" for name, r in RECIPES.items())


def reproduce(name: str, out: Path, *, resume: bool = False) -> str:
    """Run a recipe into `out`, or go on with it there, and report it beside its published value.

    Raises:
        ValueError: for an unknown recipe.
    """
    recipe = RECIPES[known(name, RECIPES, what="recipe")]
    report = recipe.run(Path(out), resume=resume)
    return f"{report}\n\npublished: {recipe.published}"
