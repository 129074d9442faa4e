"""Trained embeddings: frozen statistics, and data whose images are embedded once."""

from dataclasses import replace

import jax
import jax.numpy as jnp

from lml_jax.data.episodes import episodes
from lml_jax.experiments.fewshot.build import Tasks
from lml_jax.experiments.fewshot.settings import Plan
from lml_jax.pixels import on_floats
from lml_jax.types import Dataset, Key, Net, Params

_IMAGES = 500  # at a time: a few hundred megabytes of activations


def frozen(net: Net, params: Params, data: Dataset, key: Key, *, images: int = 1000) -> Params:
    """`params` with the batch statistics, if the network has any, of random images of `data`."""
    if net.freeze is None:
        return params
    rows = jax.random.permutation(key, data.x.shape[0])[:images]
    return on_floats(net).freeze(params, data.x[rows])  # type: ignore[misc]  # it is not None


def embed(net: Net, params: Params, data: Dataset) -> Dataset:
    """`data` with each image x replaced by its embedding, [n, d]."""
    apply = jax.jit(on_floats(net).apply)
    parts = [apply(params, data.x[i : i + _IMAGES]) for i in range(0, len(data.x), _IMAGES)]
    return replace(data, x=jnp.concatenate(parts))


def on_features(plan: Plan, features: Dataset) -> Tasks:
    """Test tasks of data that `embed` embedded."""
    s = plan.settings
    sample = episodes(
        features,
        tasks=50,
        ways=s.ways,
        shots=s.test_shots,
        queries=s.queries,
        small=s.small,
    )
    return Tasks((), features, sample, sample)
