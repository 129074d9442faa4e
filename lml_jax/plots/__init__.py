"""Figures from saved metrics: each function takes what `metrics.json` holds, returns a `Figure`."""

from lml_jax.plots.accuracy import accuracy_by_bytes as accuracy_by_bytes
from lml_jax.plots.accuracy import accuracy_over_classes as accuracy_over_classes
from lml_jax.plots.accuracy import accuracy_per_inner_step as accuracy_per_inner_step
from lml_jax.plots.confusion import confusion as confusion
from lml_jax.plots.plasticity import plasticity as plasticity
from lml_jax.plots.samples import sample_grid as sample_grid
from lml_jax.plots.speed import costs as costs
from lml_jax.plots.speed import rates as rates
from lml_jax.plots.stream import accuracy_over_stream as accuracy_over_stream
from lml_jax.plots.stream import heatmap as heatmap
from lml_jax.plots.stream import training_curves as training_curves
from lml_jax.plots.style import save as save
from lml_jax.plots.summary import summary as summary
