"""Published protocols by name, each with the value it is compared with."""

from collections.abc import Callable, Mapping
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import Any

from lml_jax.checks import known
from lml_jax.experiments.augmentation import AUGMENTATION, Augmentation
from lml_jax.experiments.exemplar_free import recipes as exemplar_free_recipes
from lml_jax.experiments.few_shot_incremental import recipes as few_shot_incremental_recipes
from lml_jax.experiments.fewshot.report import over_seeds as means
from lml_jax.experiments.fewshot.run import FEWSHOT
from lml_jax.experiments.fewshot.sequence import sequence
from lml_jax.experiments.fewshot.settings import FewShot
from lml_jax.experiments.fewshot.ways_and_shots import cells
from lml_jax.experiments.lifelong.ablation import (
    HISTORY,
    RETENTION,
    Arm,
    ablation,
    arms_of,
    generators,
)
from lml_jax.experiments.lifelong.comparison import recipes as comparison_recipes
from lml_jax.experiments.lifelong.settings import Lifelong
from lml_jax.experiments.metagan import METAGAN, MetaGan
from lml_jax.experiments.one_pass import recipes as one_pass_recipes
from lml_jax.experiments.plasticity import recipes as plasticity_recipes
from lml_jax.experiments.recipe import Recipe
from lml_jax.experiments.runner import Report, over_seeds
from lml_jax.experiments.vaml import SINE as VAML_SINE
from lml_jax.experiments.vaml import VAML, Vaml


def few_shot(*, seeds: int = 1, minutes: float | None = None) -> Callable[[FewShot], Report]:
    """Few-shot runs with seeds 0, 1, ..., and their means."""
    return lambda s: over_seeds(FEWSHOT, s, seeds=seeds, minutes=minutes, joined=means)


def arms(
    changes: Mapping[str, Arm], *, seeds: tuple[int, ...] = (0, 1, 2)
) -> Callable[[Lifelong], Report]:
    """Lifelong runs of generators, one for each arm and seed."""
    return lambda s: ablation(changes, s, seeds=seeds, report=generators)


SINE = FewShot(data="sine", ways=1, shots=10, test_shots=5, train_queries=10, queries=5,
               steps=70_000, episodes=10_000, meta_batch=25, inner_rate=0.001,
               report_step=1)  # fmt: skip
OMNIGLOT = FewShot(data="omniglot", steps=60_000, meta_batch=32)
# Where steps are few: fewer tasks and more queries in each, and a schedule that ends, at the cost
# of 16 tasks of one query. After 1,000 steps it is 2 points ahead of those.
SHORT = replace(OMNIGLOT, steps=2_000, meta_batch=8, train_queries=5, schedule="cosine")
BACKGROUND = replace(SHORT, split="background/evaluation")
# An embedding for the sequence of 600 classes; as many steps as 45 minutes on two CPU cores take.
SEQUENCE = FewShot(learner="gemcl", data="omniglot", split="background/evaluation", ways=20,
                   train_ways=40, steps=2_800, schedule="cosine")  # fmt: skip
# GeMCL's own schedule.
SEQUENCE_84 = replace(SEQUENCE, size=84, train_ways=20, train_queries=15, steps=20_000,
                      schedule="halving")  # fmt: skip
CELLS = replace(SEQUENCE, learner="protonet", split="vinyals", steps=2_000)

# Trained for one inner step, for GroupNorm is unstable beyond it.
PAIR = MetaGan(replace(BACKGROUND, batch_statistics="group", report_step=1))
# Differences of scores alone, for squared distances have no fixed zero; R1 + R2 with it.
PAIR_PROTONET = replace(
    PAIR,
    base=replace(BACKGROUND, batch_statistics="group", learner="protonet", train_ways=20, shots=1,
                 meta_batch=1),
    loss="relativistic",
    penalty=0.1,
)  # fmt: skip

STREAM = Lifelong(data="omniglot", steps=100, from_scratch=True)
# One episode per update, so that a batch is 64 images; as many samples as the measures need.
DIGITS = Lifelong(data="digits", tasks=5, classes_per_task=2, steps=2000, meta_batch=1, shots=16,
                  queries=16, samples=500, measures="all")  # fmt: skip
ONE_BY_ONE = replace(DIGITS, tasks=10, classes_per_task=1, shots=32, queries=32)
SPLIT_MNIST = replace(DIGITS, data="mnist", shots=32, queries=32, generator_width=400, noise=64,
                      width=400)  # fmt: skip
# Fifteen drawings of a character are too few to learn its variety from: they are jittered.
ALPHABETS = replace(DIGITS, data="omniglot", tasks=10, classes_per_task=5, shots=6, queries=6,
                    jitter=True, steps=1000, generator_width=400, code=32, samples=60,
                    from_scratch=True)  # fmt: skip
REPLAY = {"retention": "replay", "reduction": "sum"}

# fmt: off
recipes: dict[str, Recipe] = {
    "sine-maml": Recipe(
        "sine, MAML trained with K = 10, tested with K = 5; 3 seeds",
        "Finn et al. 2017, table 2: MSE 0.67 / 0.38 / 0.35 after 1 / 5 / 10 steps",
        SINE, few_shot(seeds=3)),
    "sine-meta-sgd": Recipe(
        "the same with one learned step size per parameter; 3 seeds",
        "PARL's reimplementation of MAML++: 0.34 ± 0.01",
        replace(SINE, learner="meta-sgd", inner_rate=0.01), few_shot(seeds=3)),
    "sine-maml++": Recipe(
        "the same with five learned step sizes per array, the last repeated at test; 3 seeds",
        "PARL's reimplementation of MAML++: 0.34 ± 0.01",
        replace(SINE, learner="maml++", inner_steps=5, report_step=10, steps=20_000),
        few_shot(seeds=3)),
    "omniglot-maml": Recipe(
        "Omniglot 5-way 1-shot, maml-random, second order; the full 60,000 steps, for a GPU",
        "Finn et al. 2017, table 1: 98.7 ± 0.4 %",
        OMNIGLOT, few_shot()),
    "omniglot-maml-45min": Recipe(
        "the same, as far as 45 minutes on two CPU cores go",
        "Finn et al. 2017, table 1: 98.7 ± 0.4 %",
        replace(SHORT, steps=8_000), few_shot(minutes=45)),
    "omniglot-maml-group": Recipe(
        "the same with GroupNorm, 2,000 steps",
        "none with this normalisation",
        replace(SHORT, batch_statistics="group"), few_shot(minutes=15)),
    "omniglot-maml-background": Recipe(
        "the same on background/evaluation, 2,000 steps",
        "none for MAML on this split",
        BACKGROUND, few_shot(minutes=15)),
    "omniglot-sequence": Recipe(
        "600 of Omniglot's evaluation classes learned one after another, 15 images each; 20 draws",
        "held-out accuracy at 600: ANML 63.8 %; at 84x84 ProtoNet 83.7 %, GeMCL 86.9 %",
        SEQUENCE, lambda s: over_seeds(sequence(), s)),
    "omniglot-sequence-84": Recipe(
        "the same at 84x84 with GeMCL's own schedule, 20 ways, 5 + 15 images, rate halved every "
        "2,000 steps; 3 trainings, for a GPU",
        "GeMCL 86.9 %, ProtoNet 83.7 %",
        SEQUENCE_84, lambda s: over_seeds(sequence(), s, seeds=3)),
    "omniglot-protonet": Recipe(
        "Omniglot, ProtoNet, vinyals: four cells from one network, as far as two CPU cores go",
        "Snell et al. 2017: 98.8 / 99.7 / 96.0 / 98.9 % (5w1s, 5w5s, 20w1s, 20w5s)",
        CELLS, lambda s: over_seeds(cells(), s)),
    "omniglot-matching": Recipe(
        "the same with Matching Networks, cosine and learned temperature",
        "Vinyals et al. 2016: 98.1 / 98.9 / 93.8 / 98.5 %",
        replace(CELLS, learner="matching"), lambda s: over_seeds(cells(), s)),
    "omniglot-protonet-full": Recipe(
        "ProtoNet's own schedule, 60 ways, rate halved every 2,000 steps, for a GPU",
        "Snell et al. 2017: 98.8 / 99.7 / 96.0 / 98.9 %",
        replace(CELLS, train_ways=60, steps=20_000, schedule="halving"),
        lambda s: over_seeds(cells(), s)),
    "history": Recipe(
        "lifelong MAML on 10 Omniglot alphabets x 5 classes, lambda in none, 0.5, 0.9, 1; 5 seeds, "
        "from a meta-trained start",
        "no published value; the arms are compared with each other",
        replace(STREAM, from_scratch=False, start="parameters", start_steps=2000),
        lambda s: ablation(HISTORY, s)),
    "history-from-scratch": Recipe(
        "the same from random parameters",
        "no published value; the arms are compared with each other",
        STREAM, lambda s: ablation(HISTORY, s)),
    "retention": Recipe(
        "the memory learner (ProtoNet) on the same streams from random parameters, with the weight "
        "of its retention loss in 0, 0.3, 1, and recall by stored statistics; 5 seeds",
        "no published value; the arms are compared with each other",
        STREAM, lambda s: ablation(RETENTION, s)),
    "vaml-sine": Recipe(
        "sine, VAML trained with 3 to 10 points, tested with 5 and 10; mean squared error, 3 seeds",
        "no published value; a pilot experiment: 0.281 with 5, 0.044 with 10, after 195 s",
        VAML_SINE, lambda s: over_seeds(VAML, s, seeds=3)),
    "vaml-omniglot": Recipe(
        "Omniglot 5-way, background/evaluation, VAML's classifier by evidence, trained on the "
        "evidence and on log p(y|x, S) x 100; 60 minutes",
        "no published value; a pilot experiment: 66.5 and 83.9 % after 250 s",
        Vaml(), lambda s: over_seeds(VAML, s, minutes=55)),
    "vaml-omniglot-mlp": Recipe(
        "the same with a perceptron for an encoder, 24,000 steps, for a CPU",
        "as above; targets: 80 and 92 %",
        Vaml(encoder="mlp", steps=24_000), lambda s: over_seeds(VAML, s)),
    "vaml-omniglot-evidence": Recipe(
        "the same, trained on the evidence alone",
        "as above",
        Vaml(discriminative=0.0), lambda s: over_seeds(VAML, s, minutes=55)),
    "vaml-omniglot-head": Recipe(
        "the same with the amortised head",
        "none for this head, which reads the code and not the features of VERSA",
        Vaml(head=True), lambda s: over_seeds(VAML, s, minutes=55)),
    "metagan-omniglot": Recipe(
        "Omniglot 5-way 1-shot, background/evaluation, 2,000 steps of MAML (GroupNorm) with "
        "MetaGAN's unlabelled negatives of weight 1/4, minus the same without; 3 seeds",
        "none confirmed on this split; target: never worse by more than 0.5 point",
        PAIR, lambda s: over_seeds(METAGAN, s, seeds=3)),
    "metagan-omniglot-protonet": Recipe(
        "the same on ProtoNet, trained with 20 ways, relativistic with R1 + R2",
        "as above",
        PAIR_PROTONET, lambda s: over_seeds(METAGAN, s, seeds=3)),
    "vaml-omniglot-augmentation": Recipe(
        "Omniglot 5-way, evaluation classes: logistic regression from scratch on S, with 40 "
        "samples of VAML per class, with 40 affine copies, with both; 1,000 paired episodes",
        "no published value; a pilot experiment, 1 / 5 shots: none 46.1 / 73.4 %, generated "
        "56.2 / 79.6, affine 65.3 / 83.3; targets: +8 / +5 over none, and no less than affine",
        Augmentation(), lambda s: over_seeds(AUGMENTATION, s, minutes=55)),
    "vaml-omniglot-augmentation-mlp": Recipe(
        "the same with a perceptron for an encoder, for a CPU",
        "as above",
        Augmentation(vaml=Vaml(encoder="mlp", held_out=5)), lambda s: over_seeds(AUGMENTATION,
        s, minutes=15)),
    "generator-digits": Recipe(
        "8x8 digits, class-incremental 5 x 2, a GAN with each retention loss; 3 seeds",
        "targets, all-class CAS, exemplar-free: align 0.96, replay 0.975, lambda = 1 at least 0.40 "
        "above lambda = 0; a pilot experiment: 0.97, 0.99, 0.46, frozen D 0.19",
        DIGITS, arms(arms_of("lifelong-gan", {"align": {}, "replay": REPLAY, "bank":
        {"retention": "bank"}, "none": {"retention": "none"}, "frozen_discriminator":
        {"retention": "frozen_discriminator"}}))),
    "generator-digits-10": Recipe(
        "8x8 digits, one class after another, 10 x 1, align and replay; 3 seeds",
        "targets, align: CAS 0.96, recall 0.80, two-sample test at most 0.65, diversity 0.85; a "
        "pilot experiment: 0.975 / 0.877 / 0.58 / 0.87",
        ONE_BY_ONE, arms(arms_of("lifelong-gan", {"align": {}, "replay": REPLAY}))),
    "generator-mnist": Recipe(
        "Split MNIST, class-incremental, 5 tasks x 2,000 iterations x 128, exemplar-free",
        "van de Ven and Tolias 2019: DGR 90.8 %, with distillation 91.8; BI-R (2020) 94.4",
        SPLIT_MNIST, arms(arms_of("lifelong-gan", {"align": {}}))),
    "generator-digits-vaml": Recipe(
        "8x8 digits, class-incremental 5 x 2, VAML with each retention loss; 3 seeds",
        "no published value; compare with generator-digits",
        replace(DIGITS, noise=8, reconstruction_weight=4.0), arms(arms_of("lifelong-vaml",
        {name: {"retention": name} for name in ("align", "replay", "none")}))),
    "generator-mnist-vaml": Recipe(
        "Split MNIST as generator-mnist, VAML",
        "van de Ven and Tolias 2019: DGR 90.8 %, with distillation 91.8; BI-R (2020) 94.4",
        replace(SPLIT_MNIST, noise=24), arms(arms_of("lifelong-vaml", {"align": {}}))),
    "generator-omniglot": Recipe(
        "10 Omniglot alphabets x 5 characters, 15 jittered drawings each, GAN and VAML, with "
        "align and without; 3 seeds",
        "no published value; target: forgetting with align below half of that without",
        ALPHABETS, arms({f"{kind}-{retention}": Arm(f"lifelong-{kind}", {"retention":
        retention}) for kind in ("gan", "vaml") for retention in ("align", "none")})),
    **one_pass_recipes,
    **exemplar_free_recipes,
    **few_shot_incremental_recipes,
    **plasticity_recipes,
    **comparison_recipes,
}
# fmt: on


def catalogue() -> str:
    """Every recipe, with what it runs and what it is compared with."""
    return "\n".join(f"{name}\n    {r.about}\n    {r.published}" for name, r in recipes.items())


def reproduce(
    name: str,
    out: Path,
    *,
    data_dir: str | None = None,
    quick: bool = False,
    resume: bool = False,
) -> str:
    """Run a recipe into `out`, or resume it there, and report it with its published value.

    Args:
        name: of an entry in `recipes`.
        out: a folder that is absent or empty; with `resume`, also that of an interrupted run.
        data_dir: folder of prepared data, in place of that of the settings.
        quick: a smaller protocol that takes minutes; the report says what was modified.
        resume: continue an interrupted run.

    Raises:
        ValueError: for an unknown recipe, or `quick` of one that has no such settings.
    """
    recipe = recipes[known(name, recipes, what="recipe")]
    settings, note = recipe.settings, ""
    if quick:
        if recipe.quick is None:
            having = ", ".join(other for other, found in recipes.items() if found.quick is not None)
            raise ValueError(f"{name} has no quick settings, expected one of {having}")
        settings, note = recipe.quick, modified(recipe)
    settings = settings if data_dir is None else from_folder(settings, data_dir)
    report = recipe.run(settings)(Path(out), resume=resume)
    return f"{report}\n\n{note}published: {recipe.published}"


def modified(recipe: Recipe) -> str:
    """What the quick settings of a recipe change, as a line of its report."""
    full, quick = vars(recipe.settings), vars(recipe.quick)
    changes = [f"{key} = {value!r} ({full[key]!r})" for key, value in quick.items()
               if value != full[key]]  # fmt: skip
    return f"modified, the protocol's values in brackets: {', '.join(changes)}\n"


def from_folder(settings: Any, data_dir: str) -> Any:
    """`settings`, and those within them, with another folder of prepared data.

    Example:
        >>> from_folder(PAIR, "prepared").base.data_dir
        'prepared'
    """
    within = {
        name: from_folder(value, data_dir)
        for name, value in vars(settings).items()
        if is_dataclass(value)
    }
    own = {"data_dir": data_dir} if "data_dir" in vars(settings) else {}
    return replace(settings, **within, **own)
