"""Protocols of the generation-based family by name; `published` lists them with the others."""

from dataclasses import replace
from typing import Any

from lml_jax.experiments import augmentation as gain
from lml_jax.experiments import metagan
from lml_jax.experiments.augmentation import Gain
from lml_jax.experiments.fewshot.settings import FewShot
from lml_jax.experiments.generator import run as generation
from lml_jax.experiments.generator.settings import Generation
from lml_jax.experiments.metagan import MetaGan
from lml_jax.experiments.record import Recipe
from lml_jax.experiments.vaml import SINE as VAML_SINE
from lml_jax.experiments.vaml import Vaml
from lml_jax.experiments.vaml import over_seeds as vaml_over_seeds

SHORT = FewShot(
    data="omniglot",
    split="background/evaluation",
    steps=2_000,
    meta_batch=8,
    train_queries=5,
    schedule="cosine",
    batch_statistics="group",
)
# Trained for one inner step, which GroupNorm does not carry further.
METAGAN = MetaGan(replace(SHORT, report_step=1))
# Differences of scores alone, for squared distances have a height of their own; R1 + R2 with it.
METAGAN_PROTONET = replace(
    METAGAN,
    base=replace(SHORT, learner="protonet", train_ways=20, shots=1, meta_batch=1),
    loss="relativistic",
    penalty=0.1,
)

DIGITS = Generation()
ONE_BY_ONE = replace(DIGITS, tasks=10, classes_per_task=1)
SPLIT_MNIST = replace(
    DIGITS,
    data="mnist",
    train_per_class=None,
    batch=128,
    hidden=400,
    noise=64,
    classifier=400,
    samples=500,
)
# Fifteen drawings of a character are too few to learn its variety from: they are jittered.
ALPHABETS = replace(
    DIGITS,
    data="omniglot",
    tasks=10,
    classes_per_task=5,
    train_per_class=15,
    jitter=True,
    steps=1000,
    hidden=400,
    noise=32,
    code=32,
    samples=60,
)
GAIN_MLP = Vaml(encoder="mlp", held_out=5)
VAML: dict[str, Any] = {"generator": "vaml"}

RECIPES = {
    "vaml-sine": Recipe(
        "sine, VAML trained with 3 to 10 points, tested with 5 and 10; mean squared error, 3 seeds",
        "no published value; a probe of this project: 0.281 with 5, 0.044 with 10, after 195 s",
        vaml_over_seeds(VAML_SINE, seeds=3),
    ),
    "vaml-omniglot": Recipe(
        "Omniglot 5-way, background/evaluation, VAML's classifier by evidence, trained on the "
        "evidence and on log p(y|x, S) x 100; 60 minutes",
        "no published value; a probe of this project: 66.5 and 83.9 % after 250 s",
        vaml_over_seeds(Vaml(), minutes=55),
    ),
    "vaml-omniglot-mlp": Recipe(
        "the same with a perceptron for an encoder, 24,000 steps, for a CPU",
        "as above; targets: 80 and 92 %",
        vaml_over_seeds(Vaml(encoder="mlp", steps=24_000)),
    ),
    "vaml-omniglot-evidence": Recipe(
        "the same, trained on the evidence alone",
        "as above",
        vaml_over_seeds(Vaml(discriminative=0.0), minutes=55),
    ),
    "vaml-omniglot-head": Recipe(
        "the same with the amortised head",
        "none for this head, which reads the code and not the features of VERSA",
        vaml_over_seeds(Vaml(head=True, discriminative=100.0), minutes=55),
    ),
    "metagan-omniglot": Recipe(
        "Omniglot 5-way 1-shot, background/evaluation, 2,000 steps of MAML (GroupNorm) with "
        "MetaGAN's unlabelled negatives of weight 1/4, minus the same without; 3 seeds",
        "none confirmed on this split; target: never worse by more than 0.5 point",
        metagan.recipe(METAGAN, seeds=3),
    ),
    "metagan-omniglot-protonet": Recipe(
        "the same on ProtoNet, trained with 20 ways, relativistic with R1 + R2",
        "as above",
        metagan.recipe(METAGAN_PROTONET, seeds=3),
    ),
    "vaml-omniglot-gain": Recipe(
        "Omniglot 5-way, evaluation classes: logistic regression from nothing on S, with 40 "
        "samples of VAML a class, with 40 affine copies, with both; 1,000 paired episodes",
        "no published value; a probe of this project, 1 / 5 shots: none 46.1 / 73.4 %, generated "
        "56.2 / 79.6, affine 65.3 / 83.3; targets: +8 / +5 over none, and no less than affine",
        gain.recipe(Gain(), minutes=55),
    ),
    "vaml-omniglot-gain-mlp": Recipe(
        "the same with a perceptron for an encoder, for a CPU",
        "as above",
        gain.recipe(Gain(vaml=GAIN_MLP), minutes=15),
    ),
    "generator-digits": Recipe(
        "8x8 digits, class-incremental 5 x 2, a GAN with each knowledge transfer; 3 seeds",
        "targets, all-class CAS with nothing stored: align 0.96, replay 0.975, lambda = 1 at least "
        "0.40 above lambda = 0; a probe before this code: 0.97, 0.99, 0.46, frozen D 0.19",
        generation.recipe(
            DIGITS,
            {
                "align": {},
                "replay": {"transfer": "replay", "reduction": "sum"},
                "bank": {"transfer": "bank"},
                "none": {"transfer": "none"},
                "frozen_discriminator": {"transfer": "frozen_discriminator"},
            },
        ),
    ),
    "generator-digits-10": Recipe(
        "8x8 digits, one class after another, 10 x 1, align and replay; 3 seeds",
        "targets, align: CAS 0.96, recall 0.80, two-sample test at most 0.65, spread 0.85; a probe "
        "before this code: 0.975 / 0.877 / 0.58 / 0.87",
        generation.recipe(
            ONE_BY_ONE,
            {"align": {}, "replay": {"transfer": "replay", "reduction": "sum"}},
        ),
    ),
    "generator-mnist": Recipe(
        "Split MNIST, class-incremental, 5 tasks x 2,000 iterations x 128, no stored image",
        "van de Ven and Tolias 2019: DGR 90.8 %, with distillation 91.8; BI-R (2020) 94.4",
        generation.recipe(SPLIT_MNIST, {"align": {}}, seeds=(0, 1, 2)),
    ),
    "generator-digits-vaml": Recipe(
        "8x8 digits, class-incremental 5 x 2, VAML with each knowledge transfer; 3 seeds",
        "no published value; beside generator-digits",
        generation.recipe(
            replace(DIGITS, **VAML, noise=8, sharpness=4.0),
            {name: {"transfer": name} for name in ("align", "replay", "none")},
        ),
    ),
    "generator-mnist-vaml": Recipe(
        "Split MNIST as generator-mnist, VAML",
        "van de Ven and Tolias 2019: DGR 90.8 %, with distillation 91.8; BI-R (2020) 94.4",
        generation.recipe(replace(SPLIT_MNIST, **VAML, noise=24), {"align": {}}),
    ),
    "generator-omniglot": Recipe(
        "10 Omniglot alphabets x 5 characters, 15 jittered drawings each, GAN and VAML, with "
        "align and without; 3 seeds",
        "no published value; target: forgetting with align below half of that without",
        generation.recipe(
            ALPHABETS,
            {
                "gan-align": {},
                "gan-none": {"transfer": "none"},
                "vaml-align": VAML,
                "vaml-none": {**VAML, "transfer": "none"},
            },
        ),
    ),
}
