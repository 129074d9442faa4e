"""Arrays of the user's own: images, features, sequences, token ids, several arrays at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lml_jax.data.arrays import from_arrays, rotations, select
from lml_jax.data.episodes import episodes
from lml_jax.data.streams import class_incremental, of_tasks

KEY = jax.random.key(0)
LABELS = np.repeat(np.arange(3), 4)


@pytest.mark.parametrize(
    ("x", "dtype"),
    [
        (np.random.default_rng(0).normal(size=(12, 4, 4, 3)), "float32"),  # standardised images
        (np.linspace(-1e6, 1e6, 12 * 7 * 2).reshape(12, 7, 2), "float32"),  # sequences
        (np.arange(12 * 9).reshape(12, 9), "int32"),  # token ids, int64 by default
        (np.arange(12 * 9, dtype=np.uint16).reshape(12, 9), "uint16"),
        (np.ones((12, 5), np.float16) * np.arange(12, dtype=np.float16)[:, None], "float16"),
        (jnp.ones((12, 5), jnp.bfloat16), "bfloat16"),
    ],
)
def test_what_an_episode_and_a_stream_give_is_what_was_given(x, dtype):
    data = from_arrays(x, LABELS)
    tasks = episodes(data, tasks=2, ways=3, shots=2, queries=2)(data, KEY)
    stream = class_incremental(
        data, tasks=3, classes_per_task=1, seed=0, train_per_class=3, shots=2, queries=1
    )
    given = {row.tobytes() for row in np.asarray(jnp.asarray(x))}
    for part in (tasks.support.x[0], stream.episodes(1, KEY).query.x[0], stream.train(2).x):
        assert part.dtype == dtype
        assert part.shape[1:] == x.shape[1:]
        assert {row.tobytes() for row in np.asarray(part)} <= given


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (np.full((12, 2), 2**40), ValueError, "expected values of int32"),
        (np.full((12, 2), 1e300), ValueError, "beyond float32"),
        (np.ones((12, 2), complex), TypeError, "x is of complex128"),
        ({"ids": np.ones((12, 2), int), "mask": np.ones((11, 2))}, ValueError, "11 and 12"),
        ({"ids": np.ones((12, 2), int), "mask": np.ones(12, bool)}, TypeError, "x is of bool"),
        ({}, TypeError, "x is of object"),
    ],
)
def test_what_is_no_example_is_refused(x, error, message):
    with pytest.raises(error, match=message):
        from_arrays(x, LABELS)


def test_arrays_in_a_dictionary_stay_in_step():
    ids = np.arange(24).reshape(12, 2)
    data = from_arrays({"ids": ids, "length": np.arange(12.0)[:, None]}, LABELS)
    stream = class_incremental(
        data, tasks=3, classes_per_task=1, seed=0, train_per_class=3, shots=1, queries=1,
        ways=1, meta_batch=5,
    )  # fmt: skip
    for i in range(3):
        wholes = (stream.train(i), stream.test(i), stream.batch(i), stream.local(i).train(i))
        episode = stream.episodes(i, KEY)
        for x in [part.x for part in (*wholes, episode.support, episode.query)]:
            row = np.asarray(x["length"][..., 0]).astype(int)
            np.testing.assert_array_equal(x["ids"], ids[row])
        original = int(stream.original[i])
        train = np.asarray(stream.train(i).x["length"][:, 0]).astype(int)
        assert set(LABELS[train]) == {original}
        test = np.asarray(stream.test(i).x["length"][:, 0]).astype(int)
        assert sorted([*train, *test]) == np.flatnonzero(original == LABELS).tolist()
    part = select(data, [2, 0])
    np.testing.assert_array_equal(part.x["ids"], ids[[8, 9, 10, 11, 0, 1, 2, 3]])


def test_names_follow_their_classes():
    data = from_arrays(np.zeros((12, 5, 5)), LABELS, names=("ant", "bee", "cat"))
    assert select(data, [2, 0]).names == ("cat", "ant")
    turned = rotations(data)
    assert turned.names[4] == "bee, 90 degrees"
    assert len(turned.names) == turned.classes == 12
    with pytest.raises(ValueError, match="names has 2 class names, expected 3"):
        from_arrays(np.zeros((12, 5)), LABELS, names=("ant", "bee"))


def test_a_class_that_is_too_small_is_named():
    data = from_arrays(np.zeros((9, 2)), [0, 0, 0, 0, 1, 1, 2, 2, 2], names=("ant", "bee", "cat"))
    with pytest.raises(ValueError, match=r"class 1 \(bee\) has 2"):
        episodes(data, tasks=1, ways=2, shots=2, queries=1)
    options = {"seed": 0, "shots": 2, "queries": 1}
    with pytest.raises(ValueError, match=r"expected 1..1, got 2 \(class 1 \(bee\) has 2\)"):
        class_incremental(data, tasks=1, classes_per_task=3, train_per_class=2, **options)
    with pytest.raises(ValueError, match=r"class 1 \(bee\) has 2 in task 1; small=\"pad\""):
        of_tasks(data, [[0, 2], [1]], test=data, **options)
    unnamed = from_arrays(np.zeros((5, 2)), [0, 0, 0, 1, 1])
    with pytest.raises(ValueError, match="but class 1 has 2"):
        episodes(unnamed, tasks=1, ways=2, shots=2, queries=1)
