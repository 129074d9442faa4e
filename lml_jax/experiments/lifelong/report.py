"""From the runs of lifelong learners to their record: metrics, figures, a table."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from lml_jax import metrics, plots
from lml_jax.experiments.lifelong.settings import Plan
from lml_jax.experiments.record import Record, tree_bytes, versions
from lml_jax.lifelong.generative_replay import Replay
from lml_jax.lifelong.results import StreamRun

COLUMNS = {
    "acc": "accuracy",
    "learning_accuracy": "when learned",
    "forgetting": "forgetting",
    "bwt": "backward tr.",
    "acc_task": "task given",
    "acc_adapted": "few-shot",
    "fwt_adapted": "forward tr.",
}
GENERATOR_COLUMNS = {
    "acc_cas": "CAS",
    "forgetting_cas": "forgetting",
    "acc": "classifier",
    "diversity": "diversity",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "two_sample": "C2ST",
    "memorisation": "memorisation",
}
STARTS = {
    "features": "a frozen embedding, meta-trained on background classes",
    "classifier": "parameters meta-trained on background classes",
    "embedding": "an embedding meta-trained on background classes",
    "random": "random parameters",
}
LEGEND = """\
In percent. accuracy: of all classes after the last task; when learned: of each task after it;
backward tr.: accuracy after the last task minus that when learned; task given: among the classes
of the task; few-shot: with a few examples of the task; forward tr.: few-shot accuracy before the
task is learned, above that of the start."""


def record_of(plan: Plan, row: int, run: StreamRun) -> Record:
    """An entry of `metrics.json`; the figures computed from its matrices are added later."""
    s, state = plan.settings, run.state
    return {
        "data": s.data,
        "scenario": s.scenario,
        "tasks_finished": row,
        "R": run.R,
        "R_task": run.R_task,
        "R_adapted": run.R_adapted,
        "shots": s.shots,
        "batch_statistics": "group" if plan.net.kind == "conv" else None,
        "class_accuracy": run.class_accuracy[row],
        "online_accuracy": metrics.online_accuracy(run.online[:row]) if row else None,
        "seconds": run.seconds,
        "bytes": {
            "params": tree_bytes(state.train.params),
            "bank": tree_bytes(state.memory),
            "own": tree_bytes(state.own),
            "generator": tree_bytes(state.own.generator) if isinstance(state.own, Replay) else 0,
        },
        "config": plan.config,
        "versions": versions(),
    }


def with_reference(runs: list[Record]) -> list[Record]:
    """`runs` with the figures of R, R_task and R_adapted; joint training is the reference."""
    reference = {run["seed"]: run for run in runs if run.get("bound") == "upper"}
    full = []
    for run in runs:
        figures: Record = {}
        for key, suffix in (("R", ""), ("R_task", "_task"), ("R_adapted", "_adapted")):
            joint_run = reference.get(run["seed"])
            r_joint = None if joint_run is None else matrix_of(joint_run, key)
            found = metrics.summary(matrix_of(run, key), R_joint=r_joint)
            figures |= {metric + suffix: value for metric, value in found.items()}
        full.append({**run, **figures})
    return full


def matrix_of(run: Record, key: str) -> np.ndarray:
    """A matrix of scores, with nan for the null of a record that was read."""
    return np.asarray(run[key], float)


def write_figures(result: Record, folder: Path) -> None:
    """R of each learner (first seed), and accuracy over the stream: one figure of all learners."""
    runs = metrics.to_json(result)["runs"]
    first = runs[0]["seed"]
    for run in runs:
        if run["seed"] == first:
            plots.save(plots.heatmap(run), folder / f"R_{run['learner']}.png")
    for key, name in (("R", "accuracy_over_stream"), ("R_adapted", "adapted_over_stream")):
        plots.save(plots.accuracy_over_stream(runs, key=key), folder / f"{name}.png")
    if len({run["learner"] for run in runs}) > 1:
        plots.save(plots.summary(runs), folder / "summary.png")


class Line(NamedTuple):
    """A line of the table: a learner's scores, means over its seeds."""

    title: str
    bound: str
    scores: dict[str, float]
    seconds: float

    def leads(self, key: str, best: dict[str, float]) -> bool:
        """Whether the score is the best one, and of no bound."""
        return not self.bound and self.scores[key] == best[key]

    def text(self, best: dict[str, float] | None = None) -> str:
        """The line in percent, with the scores in bold that equal `best`."""
        cells = []
        for key, value in self.scores.items():
            cell = f"{100 * value:14.1f}"
            bold = best is not None and self.leads(key, best)
            cells.append(f"\033[1m{cell}\033[0m" if bold else cell)
        return f"{self.title:28s}{''.join(cells)}{self.seconds:8.0f}"


def lines_of(result: Record) -> list[Line]:
    """A line for each learner; bounds are marked."""
    found = []
    for name in dict.fromkeys(run["learner"] for run in result["runs"]):
        own = [run for run in result["runs"] if run["learner"] == name]
        bound = own[0].get("bound") or ""
        seconds = float(np.mean([sum(run["seconds"].values()) for run in own]))
        scores = {key: mean_of(own, key) for key in COLUMNS}
        found.append(Line(f"{name} ({bound} bound)" if bound else name, bound, scores, seconds))
    return found


def best_of(lines: list[Line]) -> dict[str, float]:
    """The best value of each score among the learners that are no bound: forgetting is a loss."""
    rivals = [line for line in lines if not line.bound]
    best = {}
    for key in COLUMNS:
        values = [line.scores[key] for line in rivals if not np.isnan(line.scores[key])]
        pick = min if key == "forgetting" else max
        best[key] = pick(values) if len(rivals) > 1 and values else np.nan
    return best


def table(result: Record, *, bold: bool = False) -> str:
    """Means over seeds in percent, a line for each learner.

    Args:
        result: what `metrics.json` holds.
        bold: print the best value of each score in bold, bounds apart.
    """
    runs, found = result["runs"], lines_of(result)
    best = best_of(found) if bold else None
    head = f"{'':28s}" + "".join(f"{name:>14s}" for name in COLUMNS.values()) + f"{'s':>8s}"
    lines = [head, *(line.text(best) for line in found)]
    starts = ", ".join(dict.fromkeys(STARTS[run["start"]] for run in runs))
    return "\n".join([*lines, "", f"start: {starts}", LEGEND])


def mean_of(runs: list[Record], key: str) -> float:
    """Mean over runs; nan where a score could not be computed."""
    return float(np.mean([np.nan if run.get(key) is None else run[key] for run in runs]))


def generator_table(runs: list[Record]) -> str:
    """Measures of generators after the last task: a line for each arm and seed, and the mean."""
    titles = "".join(f"{title:>14s}" for title in GENERATOR_COLUMNS.values())
    lines = [f"{'':36s}{titles}{'s':>8s}"]

    def line(about: str, own: list[Record]) -> None:
        cells = "".join(f"{mean_of(own, key):14.3f}" for key in GENERATOR_COLUMNS)
        seconds = np.mean([sum(run["seconds"].values()) for run in own])
        lines.append(f"{about:36s}{cells}{seconds:8.0f}")

    for arm in dict.fromkeys(run["arm"] for run in runs):
        own = [run for run in runs if run["arm"] == arm]
        for run in own:
            line(f"{arm}, seed {run['seed']}", [run])
        if len(own) > 1:
            line(f"{arm}, mean of {len(own)}", own)
    return "\n".join(lines)
