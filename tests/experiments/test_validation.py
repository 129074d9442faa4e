"""The parameters of the best validation are those that are tested."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lml_jax import train
from lml_jax.checkpoint import FORGETFUL, keeper
from lml_jax.data.arrays import from_arrays
from lml_jax.execution import Execution
from lml_jax.experiments.fewshot.build import tasks_of, without_some
from lml_jax.experiments.fewshot.settings import FewShot, resolve
from lml_jax.experiments.progress import train_with_bar
from lml_jax.experiments.runner import Place

TX = optax.sgd(0.1)
STEP = train.make_train_step(lambda w, task, key: (w * task, {}), TX)


def sample(data, key):
    return data


def trained(tmp_path, keep, steps, scores):
    remaining = dict(scores)
    return train_with_bar(
        STEP, sample, train.init_state(jnp.array(1.0), TX), jnp.ones(1), jax.random.key(0),
        steps=steps, how=Execution(True, False, False, 2), about="", keeper=keep,
        place=Place(tmp_path, progress=False), validate_every=3,
        validate=lambda w: remaining.pop(round(float(w), 3)),
    )  # fmt: skip


# Validated after the chunk that passes 3, 6, 9 updates, and at the end; w = 1 - 0.1 updates.
SCORES = {0.6: 0.5, 0.4: 0.9, 0.0: 0.2, -0.1: 0.1}


def test_the_best_is_kept_across_a_restart(tmp_path):
    whole = trained(tmp_path, FORGETFUL, 11, SCORES)
    assert (int(whole.best.step), float(whole.best.score)) == (6, 0.9)
    np.testing.assert_allclose(whole.best.params, 0.4, rtol=1e-5)
    assert int(whole.state.step) == 11

    def interrupted():
        with keeper(tmp_path / "run", config={}, every=0.0) as keep:

            def save(step, run, score=None):
                keep.save(step, run, score)
                if step == 8:
                    raise OSError("cut")

            trained(tmp_path, keep._replace(save=save), 11, SCORES)

    with pytest.raises(OSError, match="cut"):
        interrupted()
    with keeper(tmp_path / "run", config={}, every=0.0) as keep:
        resumed = trained(tmp_path, keep, 11, {0.0: 0.2, -0.1: 0.1})
    for a, b in zip(jax.tree.leaves(whole.best), jax.tree.leaves(resumed.best), strict=True):
        np.testing.assert_array_equal(a, b)


def test_validation_classes_are_held_out():
    data = from_arrays(np.arange(24.0)[:, None], np.repeat(np.arange(6), 4))
    rest, held_out = without_some(data, 2, seed=0)
    assert (rest.classes, held_out.classes) == (4, 2)
    examples = np.concatenate([part.x for part in (rest, held_out)])[:, 0]
    assert sorted(examples.tolist()) == list(range(24))
    with pytest.raises(ValueError, match="validation_classes must be below 6"):
        without_some(data, 6, seed=0)


def test_the_episodes_of_a_validation():
    tasks = tasks_of(resolve(FewShot(validate_every=5, validation_classes=6, queries=2)))
    assert tasks.validation_set.classes == 6
    drawn = tasks.validation_sample(tasks.validation_set, jax.random.key(0))
    assert drawn.query.y.shape == (20, 10)
    assert tasks_of(resolve(FewShot())).validation_sample is None
    with pytest.raises(ValueError, match="validation_classes must be at least ways, 5, got 3"):
        resolve(FewShot(validate_every=1, validation_classes=3))
