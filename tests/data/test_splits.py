import os
from pathlib import Path

import numpy as np
import pytest

from lml_jax.data import splits
from lml_jax.data.splits import omniglot_classes, omniglot_split, random_split

SIZES = {
    "background/evaluation": {"train": 964, "test": 659},
    "maml-random": {"train": 1100, "validation": 100, "test": 423},
    "vinyals": {"train": 1028, "validation": 172, "test": 423},
}


@pytest.mark.parametrize("name", SIZES)
def test_parts_have_the_published_sizes_and_share_nothing(name):
    parts = {part: omniglot_classes(name, part) for part in SIZES[name]}
    assert {part: len(members) for part, members in parts.items()} == SIZES[name]
    assert sorted(np.concatenate(list(parts.values()))) == list(range(1623))


def test_maml_random_is_pinned_and_mixes_alphabets():
    train = omniglot_classes("maml-random", "train")
    assert omniglot_classes("maml-random", "test")[:6].tolist() == [9, 10, 24, 25, 28, 30]
    # 964 of 1,623 classes are of the background; a draw of 1,100 has 653 of them, sd 9.
    assert abs((train < 964).sum() - 653) < 40


def test_vinyals_test_is_within_the_evaluation_half():
    assert (omniglot_classes("vinyals", "test") >= 964).all()
    assert (omniglot_classes("vinyals", "validation") < 964).all()
    assert (omniglot_classes("vinyals", "train") >= 964).sum() == 236


@pytest.mark.parametrize(
    ("name", "part", "said"),
    [
        ("vinyal", "train", "did you mean 'vinyals'"),
        ("maml", "train", "did you mean 'maml-random'"),
        ("vinyals", "val", "did you mean 'validation'"),
        ("background/evaluation", "validation", "did you mean '.*'. Known: train, test"),
    ],
)
def test_unknown_names_get_the_nearest(name, part, said):
    with pytest.raises(ValueError, match=said):
        omniglot_split(name, part)


def test_a_list_that_overlaps_or_leaves_out_is_refused(monkeypatch):
    def wrong():
        return {"train": np.arange(964), "test": np.arange(963, 1622)}

    monkeypatch.setattr(splits, "_background_evaluation", wrong)
    with pytest.raises(ValueError, match="1 classes in no part and 1 in several"):
        omniglot_classes("background/evaluation", "train")


def test_random_split():
    parts = random_split(50, {"a": 10, "b": 0, "c": 30}, seed=3)
    assert {k: len(v) for k, v in parts.items()} == {"a": 10, "b": 0, "c": 30}
    assert len(set(np.concatenate(list(parts.values())))) == 40
    assert parts["a"].tolist() == random_split(50, {"a": 10}, seed=3)["a"].tolist()
    assert parts["a"].tolist() != random_split(50, {"a": 10}, seed=4)["a"].tolist()
    for sizes in ({"a": 51}, {"a": -1, "b": 3}):
        with pytest.raises(ValueError, match="sizes is"):
            random_split(50, sizes)


def test_vinyals_on_omniglot(tmp_path, monkeypatch, assert_disjoint):
    folder = os.environ.get("TFDS_DATA_DIR")
    if not folder or not list(Path(folder).glob("omniglot/*/dataset_info.json")):
        pytest.skip("omniglot is not prepared: set TFDS_DATA_DIR to a folder that holds it")
    monkeypatch.setenv("LML_JAX_CACHE", str(tmp_path))
    parts = {p: omniglot_split("vinyals", p, data_dir=folder) for p in SIZES["vinyals"]}
    assert {p: d.classes for p, d in parts.items()} == SIZES["vinyals"]
    assert_disjoint(**parts)
    # Whole alphabets, so the numbering is that of the data; one is listed in train and in test.
    alphabets = {p: {d.groups[g] for g in np.asarray(d.group)} for p, d in parts.items()}
    assert {p: len(a) for p, a in alphabets.items()} == {"train": 33, "validation": 5, "test": 13}
