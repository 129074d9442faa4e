"""Who runs in which race, and what each race is to show."""

from collections.abc import Callable
from typing import Any, NamedTuple

from benchmarks import ours, torch_loops
from benchmarks.torch_maml import PEERS, Problem, conv_problem, sine_problem
from benchmarks.work import Run

OURS = "lml_jax"


class Workload(NamedTuple):
    """The same work for all: `contestants` are factories that take `sizes` as keywords."""

    about: str
    unit: str  # what is counted in a second
    per_step: int  # so many of them in a step
    sizes: dict[str, Any]
    contestants: dict[str, Callable[..., Run]]
    steps: int  # in a repeat


def _peers(problem: Callable[..., Problem]) -> dict[str, Callable[..., Run]]:
    return {name: lambda peer=peer, **sizes: peer(problem(**sizes)) for name, peer in PEERS.items()}


def _maml_conv(tasks: int, steps: int) -> Workload:
    return Workload(
        f"MAML, second order, conv4-64 with max-pooling and batch statistics, 5-way 1-shot, 15 "
        f"queries a class, {tasks} tasks, inner steps: {steps}",
        "tasks/s",
        tasks,
        {"tasks": tasks, "steps": steps},
        {
            OURS: ours.maml_conv,
            "lml_jax, 1 device": ours.maml_conv_one_device,
            "jax vmap": ours.maml_conv_vmap,
            **_peers(conv_problem),
        },
        steps=max(1, 8 // tasks),
    )


def _protonet(ways: int) -> Workload:
    return Workload(
        f"ProtoNet step, conv4-64 with max-pooling and batch statistics, {ways}-way 5-shot, "
        "15 queries",
        "steps/s",
        1,
        {"ways": ways, "shots": 5, "queries": 15},
        {OURS: ours.protonet_conv, "torch": torch_loops.protonet_conv},
        steps=40 // ways,
    )


_ONLINE = {"tasks": 20, "samples": 1000, "batch": 10, "hidden": 256}


def _head(about: str, **sizes: int) -> Workload:
    return Workload(
        f"{about}, features precomputed",
        "orders/s",
        sizes["orders"],
        sizes,
        {
            OURS: ours.head_trajectory,
            "torch": torch_loops.head_trajectory,
            "torch, batched": torch_loops.head_trajectory_batched,
        },
        steps=1,
    )


WORKLOADS = {
    "maml-conv": _maml_conv(4, 1),
    "maml-conv-32": _maml_conv(32, 1),
    "maml-conv-5": _maml_conv(4, 5),
    "maml-sine": Workload(
        "MAML, second order, sine waves, MLP 40-40, 25 tasks, K = 10, one inner step",
        "meta-steps/s",
        1,
        {"tasks": 25},
        {OURS: ours.maml_sine, **_peers(sine_problem)},
        steps=50,
    ),
    "protonet": _protonet(20),
    "protonet-5": _protonet(5),
    "head": _head(
        "a linear head 64 x 600 through 9,000 batches of 1, 20 orders",
        orders=20,
        width=64,
        classes=600,
        length=9000,
    ),
    "head-published": _head(
        "a linear head 2304 x 1000, as published, through 1,000 batches of 1, 4 orders",
        orders=4,
        width=2304,
        classes=1000,
        length=1000,
    ),
    "online": Workload(
        "an online lifelong run, 20 tasks x 1,000 samples in batches of 10, MLP 784-256-256-40",
        "runs/s",
        1,
        _ONLINE,
        {OURS: ours.online, "torch": torch_loops.online, "avalanche": torch_loops.online_avalanche},
        steps=1,
    ),
}
