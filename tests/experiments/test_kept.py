"""The commands of a kept learner: teach, ask, show, export."""

import csv
import json
import subprocess
import sys
from dataclasses import asdict
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from lml_jax import cli, keep, nets, storage
from lml_jax._ownership import owned_file
from lml_jax.data.folder import image_files
from lml_jax.experiments.fewshot.run import of_image_size
from lml_jax.experiments.fewshot.settings import FewShot, resolve
from lml_jax.experiments.kept import commands
from lml_jax.experiments.kept.start import begin_of, few_shot_begin, inverts
from lml_jax.experiments.record import read_metrics, save_params, write_metrics

SIZE, FILTERS = 20, 8


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a few-shot run of GeMCL, as far as it matters here."""
    folder = tmp_path_factory.mktemp("run")
    settings = FewShot(learner="gemcl", size=SIZE, filters=FILTERS, batch_statistics="group")
    x = jnp.zeros((1, SIZE, SIZE), jnp.uint8)
    net = nets.conv4(None, filters=FILTERS, pool=True, norm="group").init(jax.random.key(0), x)
    save_params(folder, {"net": net, "head": {"log_alpha": 1.0, "log_beta": 0.0}})
    write_metrics(folder, {"config": asdict(resolve(settings).settings)})
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Class folders of dark strokes on white, in two parts, and a class of its own."""
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for part, classes in {"first": range(3), "second": range(3, 5)}.items():
        for c in classes:
            (root / part / f"kind {c}").mkdir(parents=True)
            for i in range(20):
                image = np.full((26, 26), 250, np.uint8)
                image[4 * c : 4 * c + 5, 3:23] = rng.integers(0, 60, (5, 20))
                Image.fromarray(image).save(root / part / f"kind {c}" / f"{i}.png")
    return root


def command(capsys, *words):
    """What a command prints."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["lml-jax", *map(str, words)])
        cli.main()
    return capsys.readouterr().out


@pytest.fixture(scope="module")
def taught(run, pictures, tmp_path_factory):
    """A learner of the first classes, made by the command."""
    path = tmp_path_factory.mktemp("kept") / "mine.kept"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["", "teach", str(path), str(pictures / "first"), "--encoder",
                                    str(run / "params.npz")])  # fmt: skip
        cli.main()
    return path


def test_a_learner_is_made_with_the_encoder_and_head_of_a_run(taught, run):
    kept = keep.load(taught)
    assert kept.rule.name == "gaussian"
    assert float(kept.params["head"]["log_alpha"]) == 1.0
    assert (kept.shape, kept.pixels.invert) == ((SIZE, SIZE), True)
    assert kept.provenance["encoder"]["learner"] == "gemcl"
    assert kept.classes == ("kind 0", "kind 1", "kind 2")
    assert few_shot_begin(run).head == "gaussian"


def test_teach_ask_and_show(taught, pictures, tmp_path, capsys):
    path = tmp_path / "mine.kept"
    path.write_bytes(taught.read_bytes())
    said = command(capsys, "teach", path, pictures / "second")
    assert "taught 40 examples (0 were taught before); 5 classes, 2 of them new" in said
    assert "read as 20x20 grey, inverted (dark ink on bright paper)" in said
    assert "(40 were taught before)" in command(capsys, "teach", path, pictures / "second")
    said = command(capsys, "ask", path, pictures / "second" / "kind 4" / "1.png")
    assert "kind 4" in said
    out = tmp_path / "a.csv"
    (tmp_path / "cut.png").write_bytes(b"not an image")
    said = command(capsys, "ask", path, pictures / "first", tmp_path / "cut.png", "--out", out,
                   "--reject")  # fmt: skip
    assert said == f"61 answers are in {out}\n"
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert set(rows[0]) == {"file", "class", "probability", "known", "error"}
    assert np.mean([row["class"] in row["file"] for row in rows[:60]]) > 0.7
    assert "cannot be read" in rows[60]["error"]
    said = command(capsys, "show", path)
    assert not path.with_name("mine.kept.png").exists()
    command(capsys, "show", path, "--figure", path.with_name("mine.kept.png"))
    assert "5 classes, 100 examples" in said
    assert "held-out examples" in said
    assert path.with_name("mine.kept.png").read_bytes()[1:4] == b"PNG"


def test_what_is_exported_answers_without_this_library(taught, pictures, tmp_path, capsys):
    out = tmp_path / "mine.stablehlo"
    command(capsys, "export", taught, "--out", out)
    about = json.loads((tmp_path / "mine.stablehlo.json").read_text())
    assert about["classes"] == ["kind 0", "kind 1", "kind 2"]
    kept = keep.load(taught)
    x = np.random.default_rng(0).integers(0, 256, (about["batch"] or 3, *kept.shape), np.uint8)
    np.save(tmp_path / "x.npy", x)
    code = (
        "import sys, jax.export, numpy as np; sys.modules['lml_jax'] = None\n"
        f"call = jax.export.deserialize(open({str(out)!r}, 'rb').read()).call\n"
        f"np.save({str(tmp_path / 'p.npy')!r}, call(np.load({str(tmp_path / 'x.npy')!r}))[0])"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    answers = keep.ask(kept, x).probabilities
    np.testing.assert_allclose(np.load(tmp_path / "p.npy"), answers, atol=1e-5)


def test_features_of_any_encoder_need_none(tmp_path, capsys):
    rng = np.random.default_rng(0)
    y = np.repeat(["cat", "dog", "newt"], 15)
    x = rng.normal(size=(45, 6)) + 4 * np.repeat(np.eye(3, 6), 15, axis=0)
    np.savez(tmp_path / "f.npz", x=x.astype(np.float32), y=y)
    path = tmp_path / "mine.kept"
    said = command(capsys, "teach", path, tmp_path / "f.npz", "--head", "ridge")
    assert "taught 45 examples" in said
    assert keep.load(path).rule.name == "ridge"
    assert "ask it in Python" in said
    np.savez(tmp_path / "few.npz", x=x[::15].astype(np.float32), y=y[::15])
    said = command(capsys, "teach", tmp_path / "few.kept", tmp_path / "few.npz", "--head", "ridge")
    assert "not calibrated" in said
    assert "held-out examples, 10 needed" in said


def failing(*words):
    """The error of a command, one line or more."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["lml-jax", *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
    assert str(caught.value).startswith("lml-jax: ")
    return str(caught.value)


def test_what_cannot_be_taught_is_refused_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(commands, "default_begin", lambda **_: pytest.fail("it was trained"))
    photos, path = tmp_path / "photos", tmp_path / "new.kept"
    for name in ("cat", "dog"):
        (photos / name).mkdir(parents=True)
        Image.new("RGB", (9, 9), (200, 0, 0)).save(photos / name / "a, expected.png")
    said = failing("teach", path, photos)
    assert "cat/a, expected.png has 3 channels" in said
    assert "lml-jax fewshot" in said
    assert "--encoder" in said
    assert "strict" not in said
    Image.new("L", (9, 9)).save(photos / "cat" / "a, expected.png")
    (photos / "dog" / "a, expected.png").write_bytes(b"no image")
    assert "the class 'dog'" in failing("teach", path, photos)
    np.savez(tmp_path / "f.npz", x=np.zeros((2, 5, 5), np.uint8), y=["a", "b"])
    assert "the encoder takes uint8 [28, 28]" in failing("teach", path, tmp_path / "f.npz")
    said = failing("teach", path, tmp_path / "f.npz", "--invert", "True")
    assert "invert is for image files" in said
    assert not path.exists()


def test_images_are_inverted_only_for_an_encoder_of_characters(run, pictures, tmp_path):
    assert inverts(str(pictures / "first"), few_shot_begin(run))
    for name in ("params.npz", "metrics.json"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    about = json.loads((run / "metrics.json").read_text())
    about["config"]["data"] = "my_images"
    write_metrics(tmp_path, about)
    assert not inverts(str(pictures / "first"), few_shot_begin(tmp_path))


def test_every_file_of_a_folder_has_an_answer_or_an_error(taught, pictures, tmp_path, capsys):
    folder, out = tmp_path / "new", tmp_path / "a.csv"
    (folder / ".hidden").mkdir(parents=True)
    for name in ("a.heic", b"caf\xe9.png".decode(errors="surrogateescape"), "f.tif"):
        (folder / name).write_bytes(b"no image")
    for name in (".DS_Store", ".hidden/0.png"):
        (folder / name).write_bytes(b"x")
    assert "no file could be read, of 3" in failing("ask", taught, folder, "--out", out)
    assert "a.heic cannot be read" in failing("ask", taught, folder)
    written = out.read_text(errors="surrogateescape")
    assert [line.count("cannot be read") for line in written.splitlines()] == [0, 1, 1, 1]
    (folder / "e.jfif").write_bytes((pictures / "first" / "kind 0" / "0.png").read_bytes())
    assert [path.name for path in image_files([folder])][2:] == ["e.jfif", "f.tif"]
    assert "4 answers" in command(capsys, "ask", taught, folder, "--out", out)


def test_ctrl_c_says_what_became_of_the_file(taught, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(commands.keep, "load", stopped)
    assert "a file is replaced only once the new one is complete" in failing("show", taught)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["teach", "{kept}", "no/folder"], "there is no no/folder, expected a folder of class"),
        (["teach", "{kept}", "{first}", "--head", "lda"], "exists, and keeps its encoder"),
        (["ask", "{kept}"], "nothing to ask"),
        (["teach", "{first}/kind 0/0.png/new.kept", "{first}"], "new.kept cannot be written: Not"),
        (["export", "{kept}", "--out", "{kept}"], "is read by this command"),
        (["show", "{kept}", "--figure", "{kept}"], "is read by this command"),
        (["ask", "{kept}", "{first}", "--out", "{kept}"], "is read by this command"),
        (["ask", "{kept}", "{first}", "--threshold", "0.9"], "is used with --reject alone"),
        (["ask", "absent.kept", "{first}"], "absent.kept"),
        (["ask", "{first}/kind 0/0.png", "{first}"], "is no whole file of arrays"),
        (["teach", "new.kept", "{first}", "--encoder", "{first}"], "params.npz"),
    ],
)
def test_bad_input_is_one_line(taught, pictures, words, message, monkeypatch):
    before = taught.read_bytes()
    given = [word.format(kept=taught, first=pictures / "first") for word in words]
    monkeypatch.setattr(sys, "argv", ["lml-jax", *given])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert message in str(caught.value)
    assert str(caught.value).startswith("lml-jax: ")
    assert taught.read_bytes() == before


def test_a_file_is_taught_by_one_process_at_a_time(taught, pictures, tmp_path):
    path = tmp_path / "mine.kept"
    path.write_bytes(taught.read_bytes())
    with owned_file(path), pytest.raises(BlockingIOError, match=r"mine\.kept is in use by process"):
        commands.teach(path, str(pictures / "second"))
    assert path.read_bytes() == taught.read_bytes()
    assert [file.name for file in tmp_path.iterdir()] == ["mine.kept"]


def test_a_run_on_arrays_records_the_size_of_its_images():
    plan = resolve(FewShot(learner="gemcl"))
    for size in ((19, 19), (19, 12)):
        tasks = SimpleNamespace(test_set=SimpleNamespace(x=np.zeros((2, *size), np.uint8)))
        found = of_image_size(plan, tasks)
        assert found.image_size == size
        assert begin_of(found, {"net": {}, "head": {}}, {"data": "mine"}).pixels.size == size
    assert of_image_size(plan, tasks).settings.size == plan.settings.size  # a square's side


def test_images_that_are_not_square_are_read_in_their_shape(run, tmp_path):
    save_params(tmp_path, storage.load(run / "params.npz"))
    config = read_metrics(run)["config"]
    write_metrics(tmp_path, {"config": config, "image_size": [20, 12]})
    assert few_shot_begin(tmp_path).pixels.size == (20, 12)


def test_a_learner_without_an_embedding_is_no_encoder(run, tmp_path):
    save_params(tmp_path, {})
    write_metrics(tmp_path, {"config": asdict(resolve(FewShot()).settings)})
    with pytest.raises(ValueError, match="holds the learner 'maml', which has no embedding"):
        few_shot_begin(tmp_path)
