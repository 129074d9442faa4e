"""A learner that is kept: taught in pieces, saved, asked, made to forget."""

from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from lml_jax import keep, nets
from lml_jax.data.arrays import from_arrays
from lml_jax.data.images import Pixels
from lml_jax.keep.encoders import network, width_of
from lml_jax.types import Batch

DIM, CLASSES, EACH = 4, 5, 12
RNG = np.random.default_rng(0)
CENTRES = 3 * RNG.normal(size=(CLASSES + 20, DIM))
NAMES = [f"class {c}" for c in range(len(CENTRES))]


def some(classes, each=EACH, seed=0):
    """Examples of classes, as a `Dataset` with names."""
    rng = np.random.default_rng([seed, *classes])
    y = np.repeat(np.arange(len(classes)), each)
    x = CENTRES[np.asarray(classes)][y] + rng.normal(size=(len(y), DIM))
    names = [NAMES[c] for c in classes]
    return from_arrays(x.astype(np.float32), y.astype(np.int32), names=names)


EVERY = some(range(CLASSES))
QUERIES = RNG.normal(size=(11, DIM)).astype(np.float32) * 3


def fresh(head="nearest-mean", **options):
    return keep.new(keep.encoder("identity", {}), head, shape=(DIM,), dtype="float32", **options)


def by_name(kept, x=QUERIES):
    """Probabilities by class, in the order of the names."""
    found = keep.ask(kept, x)
    return found.probabilities[:, np.argsort(found.classes)]


# Not random-ridge, whose 2,000 unknowns take half a minute here: benchmarks/keep.py has it.
@pytest.mark.parametrize("head", ["nearest-mean", "gaussian", "lda", "ridge"])
def test_in_any_order_and_pieces_saved_and_loaded_between(head, tmp_path):
    at_once = keep.teach(fresh(head), EVERY)
    assert at_once.examples == CLASSES * EACH
    path, kept = tmp_path / "mine.kept", fresh(head)
    rows = np.random.default_rng(1).permutation(len(EVERY.x))
    y = np.repeat(np.arange(CLASSES), EACH)
    for part in np.array_split(rows, 7):
        piece = Batch(EVERY.x[part], y[part])
        keep.save(path, keep.teach(kept, piece, names=NAMES[:CLASSES]))
        kept = keep.load(path)
    assert sorted(kept.classes) == sorted(at_once.classes)
    assert kept.calibration.examples == at_once.held_out.y.size
    np.testing.assert_allclose(by_name(kept), by_name(at_once), atol=1e-6)


def test_more_classes_than_there_is_room_for_and_old_answers_stay():
    kept = keep.teach(fresh(), EVERY)
    before = by_name(kept)
    assert len(kept.names) == 16
    more = keep.teach(kept, some(range(CLASSES, 20)))
    assert (len(more.names), len(more.classes)) == (32, 20)
    again = more
    for name in more.classes[CLASSES:]:
        again = keep.forget(again, name)
    np.testing.assert_allclose(by_name(again), before, atol=1e-6)
    # A free slot is used again.
    third = keep.teach(again, some([24]))
    assert third.names[CLASSES] == "class 24"
    assert len(third.names) == 32


@pytest.mark.parametrize("head", ["nearest-mean", "gaussian"])
def test_what_is_forgotten_was_never_there(head):
    without = keep.teach(fresh(head), some([0, 1, 3]))
    kept = keep.forget(keep.teach(without, some([2])), "class 2")
    assert kept.classes == without.classes
    assert kept.provenance["taught"][-1]["new"] == []
    np.testing.assert_allclose(by_name(kept), by_name(without), atol=1e-6)
    with pytest.raises(ValueError, match="unknown class 'class 9'; did you mean 'class"):
        keep.forget(kept, "class 9")


def test_a_head_that_cannot_forget_says_so():
    kept = keep.teach(fresh("lda"), EVERY)
    with pytest.raises(ValueError, match="statistics of 'lda' mix the classes, so 'class 1'"):
        keep.forget(kept, "class 1")


def test_what_was_taught_before_is_skipped_and_another_name_refused():
    kept = keep.teach(fresh(), EVERY)
    again = keep.teach(kept, EVERY)
    assert again.provenance["taught"][-1]["skipped"] == CLASSES * EACH
    assert again.provenance["taught"][-1]["new"] == []
    np.testing.assert_allclose(by_name(again), by_name(kept), atol=1e-7)
    twice = keep.teach(kept, EVERY, repeated="count")
    assert twice.examples == 2 * kept.examples
    with pytest.raises(ValueError, match="example 0 of the class 'cat' was taught before as 'cl"):
        keep.teach(kept, Batch(EVERY.x[:3], np.zeros(3, int)), names=["cat"])
    more = Batch(np.concatenate([EVERY.x[:7], QUERIES[:1]]), np.zeros(8, int))
    with pytest.warns(UserWarning, match=r"skipped, taught as another class: .*and 2 more"):
        skipped = keep.teach(kept, more, names=["cat"], conflicts="skip")
    assert skipped.examples == kept.examples + 1
    assert skipped.provenance["taught"][-1]["conflicts"] == 7
    with pytest.raises(ValueError, match="every example of the class 'cat' was taught as another"):
        keep.teach(kept, more._replace(x=EVERY.x[:8]), names=["cat"], conflicts="skip")
    assert kept.classes == keep.teach(kept, EVERY).classes


@pytest.mark.parametrize(
    ("examples", "names", "message"),
    [
        (Batch(np.zeros((1, DIM)), np.array([0])), ["CLASS 1"], "differ only in case"),
        (Batch(np.zeros((1, DIM)), np.array([1])), ["a"], "1 class names, but a label 1"),
        (Batch(np.zeros((1, 7)), np.array([0])), ["a"], r"\[7\], and the learner knows 4 features"),
        (Batch(np.full((1, DIM), np.nan), np.array([0])), ["a"], "x holds NaN"),
        (Batch(np.zeros((1, DIM)), np.array([0])), ["a\x1b[2J"], "is no name of a class"),
        (Batch(np.zeros((1, DIM)), np.array([0])), [" "], "is no name of a class"),
    ],
)
def test_bad_examples_are_refused(examples, names, message):
    kept = keep.teach(fresh(), EVERY)
    with pytest.raises(ValueError, match=message):
        keep.teach(kept, examples, names=names)


def test_unlabelled_and_padded_examples_take_no_part():
    y = np.repeat(np.arange(CLASSES), EACH)
    some_of = Batch(EVERY.x, np.where(y == 1, -1, y), (y != 3).astype(np.float32))
    kept = keep.teach(fresh(), some_of, names=NAMES[:CLASSES])
    assert kept.classes == ("class 0", "class 2", "class 4")


def test_asking_before_teaching_and_what_new_refuses():
    with pytest.raises(ValueError, match="nothing was taught yet"):
        keep.ask(fresh(), QUERIES)
    with pytest.raises(ValueError, match="unknown head 'lad'; did you mean 'lda'"):
        fresh("lad")
    with pytest.raises(ValueError, match="expected the shape of an example, or pixels"):
        keep.new(keep.encoder("identity", {}), "lda")
    with pytest.raises(ValueError, match=r"must return features \[n, d\], got \[8, 3, 3\]"):
        keep.new(keep.encoder("identity", {}), "lda", shape=(3, 3))
    with pytest.raises(ValueError, match="unknown encoder 'conv5'"):
        keep.encoder("conv5", {})
    with pytest.raises(ValueError, match=r"the encoder 'conv4' was given {'filtres': 3}"):
        keep.encoder("conv4", {}, filtres=3)


def test_probabilities_are_calibrated_and_the_unknown_is_rejected():
    kept = keep.ready(keep.teach(fresh(), some(range(10), each=60)))
    assert kept.calibration.rejects
    assert 0.5 < kept.calibration.accuracy < 1
    test = some(range(10), each=60, seed=1)
    answers = keep.ask(kept, test.x)
    # Of unit Gaussians p(k) is proportional to exp(-d/2), not exp(-d); few examples blur that.
    assert 1.5 < kept.calibration.temperature < 4
    right = answers.probabilities[np.arange(600), np.repeat(np.arange(10), 60)] / answers.known
    sharp = keep.ask(kept._replace(calibration=kept.calibration._replace(temperature=1.0)), test.x)
    of_sharp = sharp.probabilities[np.arange(600), np.repeat(np.arange(10), 60)] / sharp.known
    assert np.log(right).mean() > np.log(of_sharp).mean()
    np.testing.assert_allclose(answers.probabilities.sum(1), answers.known, rtol=1e-5)
    far = keep.ask(kept, 40 + QUERIES, reject=0.5)
    assert set(far.names) == {keep.NONE}
    assert far.known.max() < 0.2
    assert np.mean(np.array(keep.ask(kept, test.x, reject=0.5).names) == keep.NONE) < 0.5
    with pytest.raises(ValueError, match=r"reject must be a probability in 0\.\.1, got 2"):
        keep.ask(kept, QUERIES, reject=2.0)
    with pytest.raises(ValueError, match="nothing can be rejected"):
        keep.ask(keep.teach(fresh(), some([0, 1])), QUERIES, reject=0.5)


def test_nothing_compiles_for_requests_or_one_more_class():
    kept = keep.teach(fresh(), some(range(12)))
    for n in (1, 60, 200):
        keep.ask(kept, np.zeros((n, DIM)))
    kept = keep.ready(keep.teach(kept, some([12])))
    compiled = []

    def heard(event, seconds, **_):
        if event.endswith("backend_compile_duration"):
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(heard)
    try:
        jax.jit(lambda x: x + 1)(1.0)
        assert compiled  # it is heard
        compiled.clear()
        for n in (0, 2, 5, 9, 40, 65, 300, 700):
            assert len(keep.ask(kept, np.zeros((n, DIM))).names) == n
        kept = keep.ready(keep.teach(kept, some([13])))
        keep.ask(kept, QUERIES)
    finally:
        jax.monitoring.clear_event_listeners()
    assert compiled == []


def test_threads_get_the_answers_of_one_thread():
    kept = keep.ready(keep.teach(fresh(), some(range(6))))
    x = some(range(6), each=30, seed=1).x
    alone = keep.ask(kept, x).probabilities
    sizes = np.random.default_rng(0).integers(1, 180, 100).tolist()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: keep.ask(kept, x[:n]).probabilities, sizes))
    for p in found:
        np.testing.assert_allclose(p, alone[: len(p)], atol=1e-6)


# --- images, and encoders ------------------------------------------------------------------------

PIXELS = Pixels((12, 12))


def image_encoder(seed=0):
    options = {"hidden": (6,), "features": 5}
    net = network("mlp", tuple(sorted(options.items())))
    params = net.init(jax.random.key(seed), jnp.zeros((1, 12, 12), jnp.uint8))
    return keep.encoder("mlp", params, mean=jnp.ones(5), scale=2.0, **options)


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for c in range(3):
        (tmp_path / "pictures" / f"kind {c}").mkdir(parents=True)
        for i in range(6):
            grey = np.clip(80 * c + rng.integers(0, 60, (20, 14)), 0, 255).astype(np.uint8)
            Image.fromarray(grey).save(tmp_path / "pictures" / f"kind {c}" / f"{i}.png")
    return tmp_path / "pictures"


def test_a_folder_is_taught_and_files_are_asked(folder, tmp_path):
    kept = keep.teach(keep.new(image_encoder(), "nearest-mean", pixels=PIXELS), folder)
    assert kept.classes == ("kind 0", "kind 1", "kind 2")
    kept = keep.load(keep.save(tmp_path / "k.kept", kept))
    assert kept.pixels == PIXELS
    (tmp_path / "cut.png").write_bytes((folder / "kind 0" / "0.png").read_bytes()[:60])
    files = [folder / "kind 2" / "1.png", tmp_path / "cut.png", folder / "kind 0" / "3.png"]
    answers = list(keep.ask_files(kept, files))
    assert [answer.name for answer in answers] == ["kind 2", "", "kind 0"]
    assert "cut.png cannot be read" in answers[1].error
    with pytest.raises(ValueError, match="images of 3 channels, and the learner knows 1"):
        keep.ask(kept, np.zeros((2, 12, 12, 3), np.uint8))
    with pytest.raises(ValueError, match=r"examples of shape \[9, 12\], and the learner knows"):
        keep.ask(kept, np.zeros((2, 9, 12), np.uint8))
    with pytest.raises(ValueError, match="x is of float64, expected images of uint8"):
        keep.ask(kept, np.zeros((2, 12, 12)))
    with pytest.raises(ValueError, match="takes arrays, and no image files"):
        next(keep.ask_files(keep.teach(fresh(), EVERY), files))


def test_one_image_in_two_classes_is_named_by_both_files(folder):
    both = (folder / "kind 0" / "1.png").read_bytes()
    (folder / "kind 1" / "twin.png").write_bytes(both)
    kept = keep.new(image_encoder(), "nearest-mean", pixels=PIXELS)
    with pytest.raises(
        ValueError, match=r"kind 1/twin\.png of the class 'kind 1' equals .*kind 0/1\.png of the cl"
    ):
        keep.teach(kept, folder)
    with pytest.warns(UserWarning, match=r"twin\.png of the class 'kind 1' equals"):
        taught = keep.teach(kept, folder, conflicts="skip")
    assert taught.examples == 18
    (folder / "kind 9").mkdir()
    (folder / "kind 9" / "a.heic").write_bytes(b"no PNG")
    with pytest.raises(ValueError, match=r"the class 'kind 9' in .* has no readable image"):
        keep.teach(kept, folder)  # before the twin is seen


def test_probabilities_that_are_not_calibrated_are_warned_of():
    kept = keep.ready(keep.teach(fresh(), some([0, 1])))
    with pytest.warns(UserWarning, match=r"not calibrated: \d held-out examples, 10 needed"):
        keep.ask(kept, QUERIES)
    assert not kept.calibration.calibrated


def test_values_beyond_what_a_learner_can_sum():
    kept = keep.teach(fresh(), EVERY)
    with pytest.raises(ValueError, match="the probabilities of some of the examples are not fin"):
        keep.ask(kept, np.full((1, DIM), 1e30))
    with pytest.raises(ValueError, match=r"not finite, or beyond 1e\+15"):
        keep.teach(kept, Batch(np.full((1, DIM), 1e30), np.array([0])), names=["a"])


def test_an_encoder_of_ones_own_is_given_again_and_another_is_noticed(tmp_path):
    def apply(params, x):
        return jnp.tanh(x @ params)

    weight = jax.random.normal(jax.random.key(0), (DIM, 3))
    kept = keep.new(keep.own_encoder(apply, weight), "lda", shape=(DIM,), dtype="float32")
    kept = keep.teach(kept, EVERY)
    path = keep.save(tmp_path / "own.kept", kept)
    loaded = keep.load(path, apply=apply)
    np.testing.assert_allclose(by_name(loaded), by_name(kept), atol=1e-6)
    with pytest.raises(ValueError, match=r"own\.kept was taught with an encoder of your own"):
        keep.load(path)
    with pytest.raises(ValueError, match="gives other features than when the learner was taught"):
        keep.load(path, apply=lambda params, x: 1.1 * jnp.tanh(x @ params))
    with pytest.raises(ValueError, match="the encoder gives 4 features, and gave 3"):
        keep.load(path, apply=lambda params, x: x)


def test_meta_trained_parameters_of_a_head_are_taken():
    params = {"log_alpha": 1.0, "log_beta": 2.0}
    kept = keep.teach(fresh("gaussian", head_params=params), EVERY)
    assert float(kept.params["head"]["log_alpha"]) == 1.0
    with pytest.raises(ValueError, match="the parameters of the head 'lda' are"):
        fresh("lda", head_params=params)


def test_registered_networks_are_encoders():
    for name, of in {"conv4": nets.conv4, "convnet": nets.convnet}.items():
        x = jnp.zeros((1, 16, 16), jnp.uint8)
        shapes = jax.eval_shape(of(None).init, jax.random.key(0), x)
        params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        made = keep.encoder(name, params)
        wanted = jax.eval_shape(of(None).apply, params, x).shape[1]
        assert width_of(made, (16, 16), "uint8") == wanted
