"""Every name that a command takes, one dictionary per family; an index, and no logic.

A user's own entry is one assignment, before a command or a run:

    from lml_jax.experiments import registry

    def mine(c: registry.Context):
        return my_learner(c.classifier, c.tx, c.space)

    registry.lifelong_learners["mine"] = registry.LifelongEntry(mine, "my learner")
"""

from lml_jax.experiments.datasets import DataEntry as DataEntry
from lml_jax.experiments.datasets import DataRequest as DataRequest
from lml_jax.experiments.datasets import datasets as datasets
from lml_jax.experiments.fewshot.learners import FewShotContext as FewShotContext
from lml_jax.experiments.fewshot.learners import FewShotEntry as FewShotEntry
from lml_jax.experiments.fewshot.learners import few_shot_learners as few_shot_learners
from lml_jax.experiments.lifelong.entries import Context as Context
from lml_jax.experiments.lifelong.entries import LifelongEntry as LifelongEntry
from lml_jax.experiments.lifelong.learners import lifelong_learners as lifelong_learners
from lml_jax.experiments.networks import NetworkEntry as NetworkEntry
from lml_jax.experiments.networks import networks as networks
from lml_jax.experiments.published import recipes as recipes
from lml_jax.experiments.recipe import Recipe as Recipe
