"""The report of a finished run as one HTML file that needs nothing else."""

import base64
import glob
import html
import io
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from matplotlib.figure import Figure

from lml_jax import plots
from lml_jax.atomic_write import replacing
from lml_jax.experiments.lifelong import report
from lml_jax.experiments.log import LOG
from lml_jax.experiments.record import Record, read_metrics

PAGE = "report.html"
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem;
  padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0 }
td, th { padding: .2rem .7rem; text-align: right }
th { border-bottom: 1px solid #888 } td:first-child, th:first-child { text-align: left }
img { max-width: 100%; height: auto } .wide { overflow-x: auto }
"""


def write_page(folder: str | os.PathLike[str]) -> Path:
    """Write `report.html` into the folder of a run: settings, scores, figures, versions.

    Everything is drawn again from `metrics.json` and `log.jsonl`, except the samples of generators,
    whose images are taken from the folder.

    Args:
        folder: of a run of `lml-jax lifelong` or `lml-jax fewshot`; it need not be finished.

    Returns:
        The path of the page.

    Raises:
        FileNotFoundError: if the folder holds no `metrics.json`.
        ValueError: if that file is damaged or holds no run.
    """
    folder = Path(folder)
    record = read_metrics(folder)
    if not record:
        raise FileNotFoundError(f"{folder} holds no metrics.json, expected the folder of a run")
    body = list(_lifelong(record, folder) if "runs" in record else _single(record))
    body += _curves(folder)
    body += _settings(record.get("runs", [record])[0])
    text = (
        "<!doctype html><html lang='en'><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width'>"
        f"<title>{html.escape(folder.name)}</title><style>{STYLE}</style>"
        f"<h1>{html.escape(folder.name)}</h1>" + "\n".join(body) + "</html>\n"
    )
    path = folder / PAGE
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def _lifelong(record: Record, folder: Path) -> Iterator[str]:
    """Scores of lifelong learners, their matrices, and samples of generators."""
    runs = record["runs"]
    if not runs or "learner" not in runs[0] or "R" not in runs[0]:
        raise ValueError(f"{folder / 'metrics.json'} holds no run of a learner on a stream")
    lines = report.lines_of(record)
    best = report.best_of(lines)
    head = ("", *report.COLUMNS.values(), "seconds")
    rows = []
    for line in lines:
        cells = [html.escape(line.title)]
        for key, value in line.scores.items():
            text = f"{100 * value:.1f}"
            cells.append(f"<b>{text}</b>" if line.leads(key, best) else text)
        rows.append([*cells, f"{line.seconds:.0f}"])
    yield _table(head, rows)
    yield f"<p>{html.escape(report.LEGEND)}</p>"
    if len(lines) > 1:
        yield _image(plots.summary(runs), "accuracy over the stream, and forgetting")
    yield _image(plots.accuracy_over_stream(runs), "accuracy over the stream")
    for run in runs:
        about = f"{run['learner']}, seed {run['seed']}"
        yield f"<h2>{html.escape(about)}</h2>" + _image(plots.heatmap(run), f"R of {about}")
        samples = f"samples_{glob.escape(run['learner'])}_seed{run['seed']}_task*.png"
        for path in sorted(folder.glob(samples), key=lambda path: (len(path.name), path.name)):
            yield _embedded(path.read_bytes(), path.stem)


def _single(record: Record) -> Iterator[str]:
    """Scores of one few-shot run."""
    numbers = {k: v for k, v in record.items() if isinstance(v, str | int | float)}
    yield _table(("", "value"), [[html.escape(k), html.escape(str(v))] for k, v in numbers.items()])
    if len(record.get("accuracy_per_inner_step") or ()) > 1:
        yield _image(plots.accuracy_per_inner_step(record), "accuracy after each inner step")


def _curves(folder: Path) -> Iterator[str]:
    """The loss during training, of each part of the run."""
    path = folder / LOG
    if not path.exists():
        return
    losses: dict[str, dict[int, float]] = {}
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(text)
        except ValueError:  # a line that was being written when the run was killed
            continue
        if row.get("loss") is not None:
            losses.setdefault(row["run"], {})[row["step"]] = row["loss"]
    if losses:
        yield "<h2>Training</h2>" + _image(plots.training_curves(losses), "loss during training")


def _settings(run: Record) -> Iterator[str]:
    for title in ("config", "versions", "data_made"):
        if run.get(title):
            rows = [[html.escape(str(k)), html.escape(str(v))] for k, v in run[title].items()]
            name = {"config": "Settings", "versions": "Versions", "data_made": "Data"}[title]
            yield f"<h2>{name}</h2>" + _table(("", ""), rows)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table; the cells are HTML."""
    top = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<div class='wide'><table><tr>{top}</tr>{body}</table></div>"


def _image(figure: Figure, about: str) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return _embedded(buffer.getvalue(), about)


def _embedded(png: bytes, about: str) -> str:
    data = base64.b64encode(png).decode("ascii")
    return f"<p><img alt='{html.escape(about, quote=True)}' src='data:image/png;base64,{data}'></p>"
