"""From the scores of a few-shot run to its record, figures and table."""

from pathlib import Path

import numpy as np

from lml_jax import metrics, plots
from lml_jax.experiments.fewshot.settings import Plan
from lml_jax.experiments.record import Record


def identity_of(plan: Plan, episodes: int) -> Record:
    """What a few-shot score is a score of."""
    s = plan.settings
    return {
        "learner": s.learner,
        "data": s.data,
        "split": s.split if plan.data.turned else None,
        "ways": s.ways,
        "shots": s.test_shots,
        "episodes": episodes,
        "queries": s.queries,
        "seed": s.seed,
    }


def summary_of(plan: Plan, scores: np.ndarray) -> Record:
    """The mean score with its 95 % interval, and per inner step."""
    s = plan.settings
    per_step = [metrics.mean_ci(column) for column in scores.T]
    mean, half = per_step[s.report_step]
    common = identity_of(plan, len(scores))
    if plan.regression:
        # An error that a straight line through the data would not reach: the task diverged.
        diverged = ~(scores < 100.0)
        return {
            **common,
            "mse": mean,
            "ci95": half,
            "mse_per_inner_step": [m for m, _ in per_step],
            "mse_first_600_per_inner_step": scores[:600].mean(axis=0),
            "median_per_inner_step": np.median(scores, axis=0),
            "diverged_per_inner_step": diverged.mean(axis=0),
        }
    return {
        **common,
        "batch_statistics": s.batch_statistics,
        "inner_steps_reported": s.report_step,
        "accuracy": mean,
        "ci95": half,
        "accuracy_per_inner_step": [m for m, _ in per_step],
        "ci95_per_inner_step": [h for _, h in per_step],
    }


def draw(record: Record, folder: Path) -> None:
    """The accuracy after each inner step, where there is more than one."""
    if len(record.get("accuracy_per_inner_step", ())) > 1:
        plots.save(plots.accuracy_per_inner_step(record), folder / "accuracy_per_inner_step.png")


def table(record: Record) -> str:
    """The scores of a run, a line for each inner step."""
    if "mse" in record:
        rows = zip(
            record["mse_per_inner_step"],
            record["median_per_inner_step"],
            record["diverged_per_inner_step"],
            strict=True,
        )
        head = f"{record['data']}, K = {record['shots']}, {record['episodes']} tasks\n"
        head += f"{'step':>4s} {'mean MSE':>10s} {'median':>10s} {'diverged':>10s}"
        lines = [f"{s:4d} {m:10.4f} {d:10.4f} {v:10.2%}" for s, (m, d, v) in enumerate(rows)]
        return "\n".join([head, *lines])
    pairs = zip(record["accuracy_per_inner_step"], record["ci95_per_inner_step"], strict=True)
    many = len(record["accuracy_per_inner_step"]) > 1
    head = (
        f"{record['ways']}-way {record['shots']}-shot, {record['episodes']} episodes x "
        f"{record['queries']} queries, {record['batch_statistics']} statistics\n"
        f"{'step' if many else '':4s} accuracy, with its 95 % interval"
    )
    lines = [
        f"{s if many else '':4} {100 * m:6.2f} ± {100 * h:.2f} %" for s, (m, h) in enumerate(pairs)
    ]
    return "\n".join([head, *lines])


def over_seeds(records: list[Record]) -> str:
    """Means over seeds, after each inner step."""
    if len(records) < 2:
        return ""
    lines = [f"mean over {len(records)} seeds, after 0, 1, ... inner steps"]
    for key in records[0]:
        if key.endswith("per_inner_step"):
            mean = np.mean([record[key] for record in records], axis=0)
            lines.append(f"{key:32s}" + " ".join(f"{value:.4f}" for value in mean))
    return "\n".join(lines)
