"""The rows of a run as text."""

from collections.abc import Iterable
from typing import Any

Row = dict[str, Any]


def of(rows: list[Row]) -> str:
    """Everything that was measured, one line each, convolutions as a table."""
    best = {r["what"].split(", ")[1]: r["tflops"] for r in rows if "n" in r and "tflops" in r}
    lines: list[str] = []
    for part in dict.fromkeys(row["part"] for row in rows):
        own = [row for row in rows if row["part"] == part]
        lines += ["", part]
        lines += convolutions(own, best) if part == "conv" else map(line, own)
    return "\n".join(lines)


def line(row: Row) -> str:
    shown = {k: v for k, v in row.items() if k not in ("part", "what")}
    return f"  {row['what']:42s} " + "  ".join(f"{k} {number(v)}" for k, v in shown.items())


def number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return "[" + " ".join(map(number, value)) + "]"
    return str(value)


def convolutions(rows: list[Row], best: dict[str, float]) -> Iterable[str]:
    """TFLOP/s of every lowering, and the share of the matrix rate that the fastest reaches."""
    cells: dict[tuple[Any, ...], dict[str, Row]] = {}
    for row in rows:
        if "lowering" not in row:
            yield line(row)
            continue
        key = tuple(row[k] for k in ("precision", "size", "images", "tasks", "of"))
        cells.setdefault(key, {})[row["lowering"]] = row
    yield f"  {'':34s}  TFLOP/s of each lowering, and the share of the product's rate"
    for (precision, size, images, tasks, of), found in cells.items():
        rates = {name: row.get("tflops", 0.0) for name, row in found.items()}
        top = max(rates.values())
        share = f"{100 * top / best[precision]:.0f} %" if precision in best else ""
        shown = "  ".join(f"{name} {rate:.2f}" for name, rate in rates.items())
        yield (
            f"  {precision} {size:2d}x{size:<2d} {images:2d} images {tasks:2d} tasks {of:8s}"
            f" {shown}  {share}"
        )
