"""Scores of few-shot episodes, streams of tasks and generators."""

from lml_jax.metrics import diversity as diversity
from lml_jax.metrics import generators as generators
from lml_jax.metrics.fewshot import accuracy as accuracy
from lml_jax.metrics.fewshot import mean_ci as mean_ci
from lml_jax.metrics.fewshot import to_json as to_json
from lml_jax.metrics.plasticity import activity as activity
from lml_jax.metrics.plasticity import dormant_units as dormant_units
from lml_jax.metrics.plasticity import effective_rank as effective_rank
from lml_jax.metrics.plasticity import weight_norm as weight_norm
from lml_jax.metrics.stream import average_accuracy as average_accuracy
from lml_jax.metrics.stream import average_incremental_accuracy as average_incremental_accuracy
from lml_jax.metrics.stream import backward_transfer as backward_transfer
from lml_jax.metrics.stream import forgetting as forgetting
from lml_jax.metrics.stream import forward_transfer as forward_transfer
from lml_jax.metrics.stream import intransigence as intransigence
from lml_jax.metrics.stream import learning_accuracy as learning_accuracy
from lml_jax.metrics.stream import online_accuracy as online_accuracy
from lml_jax.metrics.stream import summary as summary
