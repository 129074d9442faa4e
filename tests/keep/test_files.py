"""Files of kept learners: whole or not at all, and from anyone."""

import io
import json
import os
import pickle
import signal
import subprocess
import sys
import time
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest

from lml_jax import keep, storage
from lml_jax.types import Batch

DIM = 3
X = np.random.default_rng(0).normal(size=(40, DIM)).astype(np.float32)
Y = np.arange(40) % 4


def learner():
    kept = keep.new(keep.encoder("identity", {}), "nearest-mean", shape=(DIM,), dtype="float32")
    return keep.teach(kept, Batch(X, Y), names=list("abcd"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes of a file that is as it should be."""
    return keep.save(tmp_path_factory.mktemp("keep") / "a.kept", learner()).read_bytes()


def refused(path, content):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=path.name):
        keep.load(path)


@pytest.mark.parametrize("seed", range(40))
def test_damaged_files_are_refused_by_name(whole, tmp_path, seed):
    rng, content = np.random.default_rng(seed), bytearray(whole)
    if seed % 4 == 0:
        content = content[: rng.integers(0, len(content))]
    elif seed % 4 == 1:
        i = rng.integers(0, len(content) - 200)
        content[i : i + 200] = rng.bytes(200)
    elif seed % 4 == 2:
        content = content[rng.integers(1, 400) :]
    else:
        content = bytearray(rng.bytes(rng.integers(0, 5000)))
    refused(tmp_path / "bad.kept", bytes(content))


class Payload:
    """What would be executed by anything that unpickles."""

    def __reduce__(self):
        return os.system, ("touch executed",)


def test_nothing_is_unpickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(tmp_path / "bad.kept", pickle.dumps(Payload()))
    held = io.BytesIO()
    np.savez(held, description=np.array([Payload()], object))
    refused(tmp_path / "bad.kept", held.getvalue())
    assert not (tmp_path / "executed").exists()


def archive(members, *, compression=zipfile.ZIP_STORED):
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", compression) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return held.getvalue()


def npy(header, content=b""):
    text = f"{header}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + content


def test_memory_is_bounded_by_the_size_of_the_file(tmp_path):
    path = tmp_path / "bad.kept"
    large = npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,)}")
    refused(path, archive({"description.npy": large}))
    zeros = npy("{'descr': '|u1', 'fortran_order': False, 'shape': (30000000,)}", bytes(3 * 10**7))
    refused(path, archive({"description.npy": zeros}, compression=zipfile.ZIP_DEFLATED))
    refused(path, archive({"description.npy": npy("{'descr': '|O', 'shape': (1,)}")}))
    refused(path, archive({"description.npy": npy("__import__('os').getpid()")}))


def rewritten(whole, tmp_path, change):
    """The file with another description, digests and all as they should be."""
    path = tmp_path / "changed.kept"
    path.write_bytes(whole)
    about, tree = storage.read_about(path), storage.load(path)
    about, tree = change(about, tree) or (about, tree)
    return storage.save(path, tree, about=about)


def put(*where, value):
    def change(about, tree):
        place = about
        for key in where[:-1]:
            place = place[key]
        place[where[-1]] = value

    return change


def put_array(name, field, value):
    def change(about, tree):
        tree[name][field] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("kept", value=2), "version 2 of the format, and this lml_jax reads 1"),
        (put("names", value=["a", "a"] + [""] * 14), "class names must differ"),
        (put("names", value=["a\x1b[0m"] + [""] * 15), "is no name of a class"),
        (put("names", value=["a"]), "is float32 [16], expected float32 [1]"),
        (put("names", value=7), "is no whole learner"),
        (put("rule", value={"kind": "head", "name": "lad"}), "unknown head 'lad'"),
        (put("rule", value={"kind": "lifelong"}), "holds a learner of the kind 'lifelong'"),
        (put("encoder", "name", value="evil"), "unknown encoder 'evil'"),
        (put("encoder", "options", value={"x": 1}), "the encoder 'identity' was given {'x': 1}"),
        (put("shape", value=[10**9]), "the encoder gives 1000000000 features, and gave 3"),
        (put("shape", value="no"), "is no whole learner|invalid literal"),
        (put("calibration", "temperature", value=-1), "the temperature is -1"),
        (put("calibration", "known", value=[1]), "not enough values"),
        (put("pixels", value={"size": [10**6, 1]}), "images are said to be 1000000 x 1"),
        (put("provenance", value=[]), "is no whole learner"),
        (lambda about, tree: ({"step": 1}, tree), "holds arrays, but no learner"),
        (lambda about, tree: (about, {"state": 1}), "is no whole learner"),
        (put_array("held_out", "y", np.full(7, 99, np.int32)), "held_out"),
        (put_array("marks", "y", np.full(40, -1, np.int32)), "labels outside 0..15"),
        (put_array("marks", "mark", jnp.zeros(40)), "marks.mark is no array of uint64"),
    ],
)  # fmt: skip
def test_well_formed_files_that_say_what_cannot_be(whole, tmp_path, change, message):
    path = rewritten(whole, tmp_path, change)
    with pytest.raises(ValueError, match=r"changed\.kept") as caught:
        keep.load(path)
    assert any(part in str(caught.value) for part in message.split("|")), caught.value


def test_a_rule_of_other_sizes_than_the_file_is_not_made(whole, tmp_path):
    def refused_rule(about):
        raise AssertionError(about)

    for sizes in ({"classes": 10**9}, {"classes": 16, "shape": [10**9]}):
        change = put("rule", value={"kind": "own", **sizes})
        path = rewritten(whole, tmp_path, change)
        with pytest.raises(ValueError, match=r"changed\.kept: the rule is said to"):
            keep.load(path, rules={"own": refused_rule})


def test_a_description_that_nests_deeply(whole, tmp_path):
    with np.load(io.BytesIO(whole)) as arrays:
        members = {name: arrays[name] for name in arrays.files}
    text = json.loads(members["description"].tobytes())
    text["structure"] = 0
    deep = json.dumps(text).replace('"structure": 0', '"structure": ' + "[" * 10**5 + "]" * 10**5)
    members["description"] = np.frombuffer(deep.encode(), np.uint8)
    held = io.BytesIO()
    np.savez(held, **members)
    refused(tmp_path / "bad.kept", held.getvalue())


SCRIPT = """
import sys
import numpy as np
from lml_jax import keep
from lml_jax.types import Batch

path = sys.argv[1]
kept = keep.load(path)
print("loaded", flush=True)
for i in range(10**6):
    kept = keep.teach(kept, Batch(np.full((1, 3), i, np.float32), np.array([0])), names=["a"])
    keep.save(path, kept)
"""


def test_a_process_killed_while_it_saves_leaves_a_whole_file(tmp_path):
    path = keep.save(tmp_path / "mine.kept", learner())
    command = [sys.executable, "-c", SCRIPT, str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "loaded\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert keep.load(path).examples >= 40
