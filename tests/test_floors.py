"""A room imports only rooms on lower floors; learners never import each other."""

import ast
from pathlib import Path

import lml_jax

ROOT = Path(lml_jax.__file__).parent
FLOORS = {
    "types": -1, "_version": -1, "checks": -1, "pixels": 0, "atomic_write": 0,
    "_structure": 0, "_archive": 0, "_torch_file": 0, "_ownership": 0,
    "updates": 0, "cpu": 0, "execution": 0, "settings": 0,
    "nets._conv_forms": -1, "nets._batched_conv": 0, "nets._apply": 0,
    "storage": 1, "losses": 1, "inner": 1, "memory": 1, "parallel": 1, "nets": 1,
    "data": 1,
    "divergence": 2, "compiled": 2, "checkpoint": 2, "heads": 2, "metrics": 2,
    "plasticity": 3,
    "learners": 3, "train": 3, "metrics.trained": 3,
    "generative": 4,  # a step of a generator is a train step
    "lifelong": 5, "evaluate": 5, "metrics.augmentation": 5, "metrics.on_stream": 5,
    "plots": 6, "keep": 6, "experiments": 7,
    "cli": 9, "__main__": 10, "__init__": 11,
}  # fmt: skip


def room(parts) -> str:
    """data/episodes -> data; a file with a floor of its own -> that; lml_jax itself -> __init__."""
    own = ".".join(parts[:2])
    return own if own in FLOORS else parts[0] if parts else "__init__"


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] == "lml_jax"}


def modules():
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield path, parts


def test_every_room_has_a_floor():
    assert {room(parts) for _, parts in modules()} == set(FLOORS)


def test_imports_go_down():
    wrong = []
    for path, parts in modules():
        own = room(parts)
        for name in imports(path):
            target = room(name.split(".")[1:])
            if target == own and own != "learners":
                continue
            if own == "learners" and target == "learners":
                wrong.append(f"{path.name} imports another learner: {name}")
            elif FLOORS[target] >= FLOORS[own]:
                wrong.append(f"{'/'.join(parts)} (floor {FLOORS[own]}) imports {name}")
    assert not wrong, "\n".join(wrong)


def test_flax_only_in_nets():
    users = [
        parts[0]
        for path, parts in modules()
        if any(
            name.split(".")[0] == "flax"
            for node in ast.walk(ast.parse(path.read_text()))
            for name in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
        )
    ]
    assert users
    assert set(users) == {"nets"}
