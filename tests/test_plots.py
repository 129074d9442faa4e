import json
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.image import imread

from lml_jax import plots

R = [
    [None, None, None],
    [0.70, None, None],
    [0.90, 0.80, None],
    [0.60, 0.85, 0.95],
]
CURVE = [0.70, 0.85, 0.80]  # .70; (.90 + .80) / 2; (.60 + .85 + .95) / 3


def shifted(by):
    return [[None if v is None else v - by for v in row] for row in R]


def lifelong():
    common = {"data": "glyphs", "scenario": "class", "acc": 0.8, "fwt": None}
    record = {
        "runs": [
            {"learner": "maml", "seed": 0, "R": R, "R_adapted": None, **common},
            {"learner": "protonet", "seed": 0, "R": shifted(0.2), "R_adapted": R, **common},
            {"learner": "maml", "seed": 1, "R": shifted(0.1), "R_adapted": None, **common},
        ]
    }
    return json.loads(json.dumps(record, allow_nan=False))


def fewshot(**changes):
    return {
        "learner": "maml",
        "data": "omniglot",
        "ways": 5,
        "shots": 1,
        "accuracy": 0.9,
        "accuracy_per_inner_step": [0.2, 0.8, 0.9],
        **changes,
    }


def data_lines(figure):
    return figure.axes[0].get_lines()


def annotations(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def test_heatmap_prints_each_defined_cell():
    figure = plots.heatmap(lifelong()["runs"][0])
    axes = figure.axes[0]
    assert sorted(annotations(figure)) == ["0.60", "0.70", "0.80", "0.85", "0.90", "0.95"]
    places = {text.get_position(): text.get_text() for text in axes.texts}
    assert places[(0, 2)] == "0.90"  # x is the task scored, y the task learned last
    assert axes.images[0].get_clim() == (0, 1)
    assert axes.images[0].get_array().mask.sum() == 6
    assert axes.patch.get_hatch()
    assert "task $j$" in axes.get_xlabel()
    assert "task $i$" in axes.get_ylabel()
    assert axes.get_title(loc="left") == "maml, glyphs, class, seed 0"
    assert [t.get_text() for t in axes.get_yticklabels()] == ["0", "1", "2", "3"]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["1", "2", "3"]


@pytest.mark.parametrize(("tasks", "printed"), [(1, 2), (12, 156), (13, 0), (60, 0)])
def test_heatmap_prints_values_only_where_there_is_room(tasks, printed, tmp_path):
    figure = plots.heatmap({"learner": "joint", "R": np.full((tasks + 1, tasks), 0.5).tolist()})
    assert len(annotations(figure)) == printed
    plots.save(figure, tmp_path / "r.png")


def test_heatmap_border_has_learned_cells_below_it():
    x, y = data_lines(plots.heatmap({"learner": "a", "R": R}))[-1].get_data()
    # Over column 0 it runs between rows 0 and 1, and so on: learned is j <= i.
    np.testing.assert_array_equal(x, [-0.5, 0.5, 0.5, 1.5, 1.5, 2.5])
    np.testing.assert_array_equal(y, [0.5, 0.5, 1.5, 1.5, 2.5, 2.5])


def test_heatmap_errors():
    with pytest.raises(ValueError, match="'maml' has no 'R_adapted'"):
        plots.heatmap(lifelong()["runs"][0], key="R_adapted")
    with pytest.raises(ValueError, match=r"\(2, 2\)"):
        plots.heatmap({"learner": "a", "R": [[0, 0], [0, 0]]})


def test_stream_has_a_line_a_learner():
    figure = plots.accuracy_over_stream(lifelong())
    axes = figure.axes[0]
    maml, protonet = data_lines(figure)
    np.testing.assert_array_equal(maml.get_xdata(), [1, 2, 3])
    np.testing.assert_allclose(maml.get_ydata(), np.array(CURVE) - 0.05)
    np.testing.assert_allclose(protonet.get_ydata(), np.array(CURVE) - 0.2)
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert band.min() == pytest.approx(0.6)
    assert band.max() == pytest.approx(0.85)
    assert sorted(annotations(figure)) == ["maml", "protonet"]
    assert axes.get_xlabel() == "tasks learned $i$"
    assert "mean over tasks seen" in axes.get_ylabel()
    assert axes.get_title(loc="left") == "glyphs, class"


def test_stream_takes_a_list_and_keeps_colours_between_figures():
    runs = lifelong()["runs"]
    both = data_lines(plots.accuracy_over_stream(runs))
    (adapted,) = data_lines(plots.accuracy_over_stream(runs, key="R_adapted"))
    assert adapted.get_label() == "protonet"
    assert adapted.get_color() == both[1].get_color() != both[0].get_color()
    np.testing.assert_allclose(adapted.get_ydata(), CURVE)


def test_stream_leaves_a_gap_where_a_seed_is_undefined(tmp_path):
    record = lifelong()
    record["runs"][2]["R"][2][0] = None
    figure = plots.accuracy_over_stream(record)
    np.testing.assert_array_equal(np.isnan(data_lines(figure)[0].get_ydata()), [0, 1, 0])
    plots.save(figure, tmp_path / "gap.png")


def test_stream_end_labels_stay_apart_and_in_order():
    runs = [{"learner": f"l{n}", "R": [[0.0], [0.99 + 0.001 * n]], "data": "d"} for n in range(8)]
    texts = plots.accuracy_over_stream(runs).axes[0].texts
    heights = [text.xy[1] for text in texts]
    assert [text.get_text() for text in texts] == [f"l{n}" for n in range(8)]
    assert np.diff(heights).min() > 0.05
    assert max(heights) <= 1.02


def test_stream_errors():
    runs = lifelong()["runs"]
    with pytest.raises(ValueError, match="none of the 1 runs has 'R_adapted'"):
        plots.accuracy_over_stream(runs[:1], key="R_adapted")
    with pytest.raises(ValueError, match="must share data, scenario"):
        plots.accuracy_over_stream([runs[0], {**runs[1], "scenario": "domain"}])
    with pytest.raises(ValueError, match="no runs"):
        plots.accuracy_over_stream({"runs": []})


def test_inner_steps():
    figure = plots.accuracy_per_inner_step(fewshot())
    (line,) = data_lines(figure)
    np.testing.assert_array_equal(line.get_xdata(), [0, 1, 2])
    np.testing.assert_array_equal(line.get_ydata(), [0.2, 0.8, 0.9])
    assert line.get_label() == "maml, 5-way 1-shot"
    assert figure.axes[0].get_xlabel() == "inner steps"
    assert figure.axes[0].get_ylabel() == "query accuracy"


def test_inner_steps_of_several_runs(tmp_path):
    runs = [
        fewshot(ci95_per_inner_step=[0.01, None, 0.05]),
        fewshot(learner="protonet", accuracy_per_inner_step=None, accuracy=0.95),
        fewshot(shots=5, accuracy_per_inner_step=[0.2, None, 0.99, 0.99]),
    ]
    figure = plots.accuracy_per_inner_step(runs)
    lines = data_lines(figure)
    assert [line.get_label()[-6:] for line in lines] == ["1-shot", "1-shot", "5-shot"]
    assert list(lines[1].get_ydata()) == [0.95, 0.95]
    assert len({line.get_color() for line in lines}) == 3
    plots.save(figure, tmp_path / "steps.png")


def test_inner_steps_errors():
    with pytest.raises(ValueError, match="neither"):
        plots.accuracy_per_inner_step(fewshot(accuracy=None, accuracy_per_inner_step=None))
    with pytest.raises(ValueError, match="3 accuracies but 1 intervals"):
        plots.accuracy_per_inner_step(fewshot(ci95_per_inner_step=[0.1]))


def test_save_replaces_whole_files_only(tmp_path):
    path = tmp_path / "new" / "figure.png"
    figure = plots.heatmap({"learner": "a", "R": R})
    path.parent.mkdir()
    path.write_bytes(b"old")
    assert plots.save(figure, path) == path
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    height, width, _ = imread(path).shape
    assert (width, height) == tuple((figure.get_size_inches() * 150).astype(int))
    assert [p.name for p in path.parent.iterdir()] == ["figure.png"]
    kept = path.read_bytes()
    figure.savefig = lambda *_, **__: 1 / 0
    with pytest.raises(ZeroDivisionError):
        plots.save(figure, path)
    assert path.read_bytes() == kept
    assert [p.name for p in path.parent.iterdir()] == ["figure.png"]


def test_pyplot_is_not_imported():
    code = "import sys, lml_jax.plots; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_matrices_may_be_arrays():
    run = {"learner": "a", "R": np.array([[np.nan, np.nan], [0.9, np.nan], [0.5, 0.8]])}
    assert plots.accuracy_over_stream([run]).axes
    assert plots.heatmap(run).axes


def test_a_grid_of_samples_has_a_row_a_class(tmp_path):
    images = np.random.default_rng(0).uniform(size=(3, 5, 8, 8))
    figure = plots.sample_grid(images, ["a", "b", "c"], title="after task 1")
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "c"]
    assert axes.images[0].get_array().shape == (3 * 9 - 1, 5 * 9 - 1)
    np.testing.assert_allclose(axes.images[0].get_array()[9:17, 18:26], images[1, 2])
    assert imread(plots.save(figure, tmp_path / "grid.png")).std() > 0
    with pytest.raises(ValueError, match=r"got \(3, 5, 8, 8\) and 2 labels"):
        plots.sample_grid(images, ["a", "b"])


@pytest.mark.parametrize("columns", [2, 10])
def test_a_grid_cuts_off_neither_title_nor_labels(columns):
    labels = [f"task {i // 5 + 1}, class {i}" for i in range(50)]
    title = "lifelong-vaml, seed 0, after task 10"
    figure = plots.sample_grid(np.zeros((50, columns, 28, 28)), labels, title=title)
    figure.draw_without_rendering()
    (axes,) = figure.axes
    for text in (figure._suptitle, *axes.get_yticklabels()):
        box = text.get_window_extent()
        assert box.x0 >= 0, text
        assert box.x1 <= figure.bbox.x1, text


def test_rates_draw_a_row_a_peer_and_costs_a_line_a_curve():
    ratio = {"median": 2.0, "low": 1.5, "high": 3.0}
    race = {"workload": "maml-sine", "ratios": {"higher": ratio, "torchopt": ratio}}
    (axes,) = plots.rates([race], ours="lml_jax").axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["maml-sine: torchopt", "maml-sine: higher"]
    with pytest.raises(ValueError, match="no race has a contestant beside ours"):
        plots.rates([{"workload": "head", "ratios": {}}], ours="lml_jax")
    (axes,) = plots.costs({"a": {1: 2.0, 10: 2.0}, "b": {1: 3.0}}, of="tasks", unit="ms").axes
    assert [line.get_label() for line in axes.get_lines()] == ["a", "b"]
