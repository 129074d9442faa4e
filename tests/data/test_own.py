"""Data of the user's own: folders, archives, CSV files, mappings, names that tfds knows."""

import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lml_jax.data.files import from_csv, from_labelled, from_mapping, from_npy, from_npz
from lml_jax.data.folder import check_names, from_folder
from lml_jax.data.images import ChannelsError, Pixels, read_image
from lml_jax.data.prepared import from_tfds
from lml_jax.experiments.datasets import DataRequest, data_entry
from lml_jax.experiments.fewshot import settings as few_shot
from lml_jax.experiments.fewshot.settings import FewShot
from lml_jax.experiments.lifelong.settings import Lifelong, resolve, start_entry

RNG = np.random.default_rng(0)


def picture(mode="L", size=(20, 30)):
    shape = (*size[::-1], 3) if mode == "RGB" else size[::-1]
    return Image.fromarray(RNG.integers(0, 256, shape, np.uint8).astype(np.uint8), mode=None)


@pytest.fixture
def folder(tmp_path):
    """Three classes of 4, 2 and 3 files of different sizes, formats and channels."""
    root = tmp_path / "pets"
    for name, count in {"cat": 4, "dog": 2, "Newt": 3}.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            image = picture(("L", "RGB")[i % 2], (20 + 5 * i, 30))
            image.save(root / name / f"{i}.{('png', 'jpg')[i % 2]}")
    (root / "cat" / ".DS_Store").write_bytes(b"x")
    (root / "README.txt").write_text("about")
    return root


def test_a_folder_is_its_classes_sorted_and_its_files_sorted(folder):
    data = from_folder(folder, Pixels((8, 6), "colour"))
    assert data.names == ("Newt", "cat", "dog")
    assert data.count.tolist() == [3, 4, 2]
    assert (data.x.dtype, data.x.shape) == (np.uint8, (9, 8, 6, 3))
    first = read_image(folder / "Newt" / "0.png", Pixels((8, 6), "colour"))
    np.testing.assert_array_equal(data.x[0], first)
    grey = from_folder(folder, Pixels((8, 6)))
    np.testing.assert_array_equal(from_folder(folder, Pixels((8, 6), invert=True)).x, 255 - grey.x)


def test_resizing_is_by_the_filter_that_is_named():
    image = picture()
    for name in ("box", "lanczos"):
        wanted = image.resize((6, 8), Image.Resampling[name.upper()])
        np.testing.assert_array_equal(read_image(image, Pixels((8, 6), filter=name)), wanted)
    with pytest.raises(ValueError, match="unknown filter 'lanzcos'; did you mean 'lanczos'"):
        read_image(image, Pixels(filter="lanzcos"))
    with pytest.raises(ValueError, match="height must be at least 1, got 0"):
        read_image(image, Pixels((0, 3)))


def test_bits_transparency_and_orientation(tmp_path):
    deep = np.linspace(0, 65535, 16).reshape(4, 4).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(
        read_image(tmp_path / "deep.png", Pixels((4, 4))), np.round(deep / 257.0)
    )
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    assert (read_image(clear, Pixels((4, 4))) == 255).all()
    turned, exif = Image.fromarray(np.array([[0, 255], [0, 255]], np.uint8)), Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    turned.save(tmp_path / "turned.png", exif=exif)
    seen = read_image(tmp_path / "turned.png", Pixels((2, 2)))
    assert seen.tolist() == [[0, 0], [255, 255]]
    assert read_image(Image.new("1", (2, 2), 1), Pixels((2, 2))).tolist() == [[255] * 2] * 2


def test_a_clear_grey_is_white_and_modes_of_numbers_are_read_as_they_are(tmp_path):
    path = tmp_path / "clear.png"
    for mode in ("1", "L", "I;16"):
        Image.new(mode, (2, 2), 0).save(path, transparency=0)
        assert (read_image(path, Pixels((2, 2))) == 255).all(), mode
    for dtype in (np.int32, np.float32):
        image = Image.fromarray(np.full((2, 2), 200, dtype))
        assert read_image(image, Pixels((2, 2))).tolist() == [[200] * 2] * 2
    with pytest.raises(ValueError, match=r"its values are in 300\.\.300, expected 0\.\.255"):
        read_image(Image.fromarray(np.full((2, 2), 300, np.int32)), Pixels((2, 2)))


def test_colour_where_grey_is_expected():
    strict = Pixels((4, 4), strict=True)
    with pytest.raises(ChannelsError, match="has 3 channels"):
        read_image(picture("RGB"), strict)
    assert read_image(Image.new("RGB", (4, 4), (9, 9, 9)), strict).tolist() == [[9] * 4] * 4
    assert read_image(picture(), Pixels((4, 4), "colour")).shape == (4, 4, 3)


def test_unreadable_files_are_named_and_skipped_or_refused(folder):
    whole = (folder / "cat" / "0.png").read_bytes()
    (folder / "cat" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "cat" / "notes.txt").write_text("a cat")
    with pytest.warns(UserWarning, match=r"skipped: .*cut\.png cannot be read.*notes\.txt"):
        data = from_folder(folder)
    assert data.count.tolist() == [3, 4, 2]
    with pytest.raises(ValueError, match=r"cut\.png cannot be read as a PNG or JPEG"):
        from_folder(folder, unreadable="refuse")
    with pytest.raises(ValueError, match="unknown treatment of unreadable files 'skp'"):
        from_folder(folder, unreadable="skp")


def test_an_image_of_too_many_pixels_is_not_decoded(tmp_path):
    path = tmp_path / "large.png"
    Image.new("1", (9000, 9000)).save(path)
    with pytest.raises(ValueError, match="more than 50 million"):
        read_image(path, Pixels())


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda root: (root / "cat" / "inner").mkdir(),
            "inner is a folder inside the class",
        ),
        (lambda root: (root / "owl").mkdir(), "the class 'owl' in .* is empty"),
        (lambda root: (root / "CAT").mkdir(), "'CAT' and 'cat' in .* differ only in case"),
        (lambda root: picture().save(root / "loose.png"), r"loose\.png lies beside the class"),
    ],
)
def test_bad_folders(folder, spoil, message):
    spoil(folder)
    with pytest.raises(ValueError, match=message):
        from_folder(folder)


def test_folders_without_classes_or_images(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no folder"):
        from_folder(tmp_path / "absent")
    with pytest.raises(ValueError, match="holds no folder"):
        from_folder(tmp_path)
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.txt").write_text("")
    with (
        pytest.warns(UserWarning, match="skipped"),
        pytest.raises(ValueError, match=r"the class 'cat' in .* has no readable image"),
    ):
        from_folder(tmp_path)


def test_archives_pairs_and_csv_say_the_same(tmp_path):
    x = RNG.normal(size=(5, 3)).astype(np.float32)
    labels = np.array(["b", "a", "b", "c", "a"])
    np.savez(tmp_path / "f.npz", x=x, y=labels)
    np.savez(tmp_path / "g.npz", x=x, y=[1, 0, 1, 2, 0], names=["a", "b", "c"])
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", labels)
    rows = [",".join(map(repr, row)) for row in x.tolist()]
    lines = [f"{name},{row}" for name, row in zip(labels, rows, strict=True)]
    (tmp_path / "f.csv").write_text("\n".join(["label,a,b,c", *lines]))
    found = [
        from_npz(tmp_path / "f.npz"), from_npz(tmp_path / "g.npz"), from_csv(tmp_path / "f.csv"),
        from_npy(tmp_path / "x.npy", tmp_path / "y.npy"),
        from_mapping({"z": x, "kind": labels}, x="z", y="kind"),
    ]  # fmt: skip
    for data in found:
        assert data.names == ("a", "b", "c")
        np.testing.assert_array_equal(data.x, x)
        assert [data.rows_of(c).tolist() for c in range(3)] == [[1, 4], [0, 2], [3]]


def test_columns_of_images():
    columns = {"image": [picture(), picture("RGB")], "label": [1, 0]}
    data = from_mapping(columns, names=["newt", "owl"], pixels=Pixels((5, 5)))
    assert (data.x.shape, data.names) == ((2, 5, 5), ("newt", "owl"))
    with pytest.raises(ValueError, match="there is no column 'img', only image, label"):
        from_mapping(columns, x="img")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "expected a header with the column 'class'"),
        ("", "expected a header with the column 'class'"),
        ("class,a\n", "holds no example"),
        ("class,a\nx,1\ny,1,2\n", "line 3: 3 values, expected 2"),
        ("class,a\nx,one\n", "line 2, column 'a': 'one' is no finite number"),
        ("class,a\nx,1e60\n", "'1e60' is no finite number"),
        ("class,a\nx,1\nX,2\n", "'X' and 'x' in labels differ only in case"),
    ],
)
def test_bad_csv(tmp_path, text, message):
    (tmp_path / "f.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        from_csv(tmp_path / "f.csv")


def test_csv_that_is_no_utf8_or_has_a_huge_cell_is_named(tmp_path):
    path = tmp_path / "f.csv"
    path.write_bytes("class,a\ncaf\xe9,1\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"f\.csv is not UTF-8 text"):
        from_csv(path)
    path.write_text("class,a\nx,1\n" + "y" * 200_000 + ",2\n")
    with pytest.raises(ValueError, match=r"f\.csv, line 3: field larger than"):
        from_csv(path)


def test_bad_archives_and_labels(tmp_path):
    path = tmp_path / "f.npz"
    np.savez(path, x=np.ones((2, 2)))
    with pytest.raises(ValueError, match=r"f\.npz holds x; expected x \[n"):
        from_npz(path)
    np.savez(path, x=np.ones((2, 2)), y=np.array(["a", 1], object))
    with pytest.raises(ValueError, match="is no archive of arrays"):
        from_npz(path)
    np.savez(path, x=np.ones((2, 2)), y=[0, 3], names=["a", "b"])
    with pytest.raises(ValueError, match=r"f\.npz: labels are in 0\.\.3, but there are 2 names"):
        from_npz(path)
    np.savez(path, x=np.ones((2, 2)), y=[0, 1], z=np.array([1], object))
    with pytest.raises(ValueError, match=r"f\.npz holds x, y, z; expected"):  # z is not read
        from_npz(path)
    np.savez_compressed(path, x=np.ones((2, 2)), y=[0, 1])
    assert from_npz(path).classes == 2
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("x", "y"):
            with archive.open(f"{name}.npy", "w") as file:
                header = {"descr": "<f8", "fortran_order": False, "shape": (2**42,)}
                np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(ValueError, match=r"its member x\.npy claims 35184372088832 bytes"):
        from_npz(path)
    with (tmp_path / "y.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
    np.save(tmp_path / "x.npy", np.ones((2, 2)))
    with pytest.raises(ValueError, match="are not both"):
        from_npy(tmp_path / "x.npy", tmp_path / "y.npy")
    with pytest.raises(TypeError, match="labels are of float64"):
        from_labelled(np.ones((2, 2)), [0.5, 1.0])


def test_a_name_that_tfds_knows(tfds_dir):
    data = from_tfds("cifar100", "test", Pixels((8, 8)), data_dir=tfds_dir)
    assert data.classes == 100
    assert data.names[:2] == ("apple", "aquarium_fish")
    assert (data.count == 100).all()
    assert data.x.shape == (10_000, 8, 8)
    with pytest.raises(ValueError, match="unknown split of mnist 'tets'; did you mean 'test'"):
        from_tfds("mnist", "tets", data_dir=tfds_dir)


def test_data_of_ones_own_in_the_commands(folder):
    entry = data_entry(str(folder), command="streams")
    assert (entry.tasks_in_stream, entry.classes_per_task, entry.train_per_class) == (3, 1, 1)
    data, test = entry.stream(DataRequest(size=9))
    assert test is None
    assert data.x.shape == (9, 9, 9, 3)
    with pytest.raises(ValueError, match="there are 3 classes, expected at least 4"):
        data_entry(str(folder), command="few-shot")
    (folder / "owl").mkdir()
    picture().save(folder / "owl" / "0.png")
    data = from_folder(folder)
    few = data_entry(str(folder), command="few-shot")
    parts = few.background(DataRequest()), few.stream(DataRequest())[0]
    assert sorted(parts[0].names + parts[1].names) == sorted(data.names)
    assert [part.classes for part in parts] == [2, 2]


@pytest.mark.parametrize(
    ("learner", "given", "expected"),
    [  # of 10 classes, 7 train; the smallest has 8 examples
        (
            "protonet",
            {},
            {"train_ways": 7, "ways": 3, "shots": 4, "train_queries": 4, "queries": 4},
        ),
        ("protonet", {"shots": 1}, {"shots": 1, "train_queries": 5, "queries": 7}),
        (
            "protonet",
            {"queries": 6, "train_ways": 20},
            {"shots": 2, "queries": 6, "train_ways": 20},
        ),
        ("protonet", {"small": "pad"}, {"shots": 5, "queries": 15, "train_ways": 7, "ways": 3}),
        ("maml", {}, {"train_ways": 3, "ways": 3, "shots": 1, "queries": 7}),
    ],
)
def test_defaults_fit_data_of_ones_own(tmp_path, learner, given, expected):
    for c in range(10):
        (tmp_path / f"kind {c}").mkdir()
        for i in range(8 + c):
            (tmp_path / f"kind {c}" / f"{i}.png").touch()  # no image is decoded
    settings = few_shot.resolve(FewShot(learner=learner, data=str(tmp_path), **given)).settings
    assert {name: getattr(settings, name) for name in expected} == expected


def test_settings_take_a_path_and_classes_to_meta_train_on(folder):
    assert resolve(Lifelong(data=str(folder))).start == "random"
    assert resolve(Lifelong(data=str(folder), start_data="glyphs")).start == "features"
    assert start_entry(Lifelong(start_data="omniglot")).background is not None
    with pytest.raises(ValueError, match="'mnist' has no classes to meta-train on"):
        resolve(Lifelong(data=str(folder), start_data="mnist"))
    assert FewShot(data=str(folder)).data == str(folder)


def test_what_is_neither_a_name_nor_there():
    with pytest.raises(FileNotFoundError, match=re.escape("there is no no/folder, expected")):
        data_entry("no/folder", command="streams")
    with pytest.raises(FileNotFoundError, match=r"there is no file no\.npz"):
        data_entry("no.npz", command="streams")
    with pytest.raises(ValueError, match=r"did you mean 'glyphs'.*a folder of class folders"):
        data_entry("glyps", command="streams")


def test_a_folder_under_the_name_of_a_data_set_is_refused(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    folder.rename("digits")
    with pytest.raises(ValueError, match=r"'digits' is a data set and a folder.*give \./digits"):
        data_entry("digits", command="streams")
    assert data_entry("./digits", command="streams").classes_per_task == 1
    Path("omniglot").mkdir()  # holds no images
    assert data_entry("omniglot", command="streams").reads_folder


def test_accents_are_named():
    with pytest.raises(ValueError, match="differ only in how their accents are encoded"):
        check_names(["\u00e9", "e\u0301"], where="pets")
