"""The same MAML step in PyTorch, on fixed episodes: `torch.func`, and a loop over tasks."""

import time
from typing import Any

from _gpu.common import Run

from benchmarks import torch_maml, work
from lml_jax.experiments.fewshot.settings import resolve
from lml_jax.experiments.published import OMNIGLOT


def main(run: Run) -> None:
    try:
        import torch
    except ImportError as error:
        return run.write(what="torch maml", missing=str(error))

    torch.set_num_threads(1 if run.tiny else 8)
    cuda = torch.cuda.is_available() and not run.tiny
    tasks, filters = (2, 8) if run.tiny else (resolve(OMNIGLOT).settings.meta_batch, 64)
    common = {"tasks": tasks, "device": torch.cuda.get_device_name(0) if cuda else "cpu"}
    common["torch"] = torch.__version__
    for precision in ("tf32", "f32"):
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        torch.backends.cudnn.allow_tf32 = precision == "tf32"
        torch.backends.cudnn.benchmark = True
        for name, contestant in {"torch.func": torch_maml.torch_func, "loop": one_by_one}.items():

            def measure(contestant: Any = contestant) -> dict[str, Any]:
                steps = contestant(problem(tasks, filters, cuda=cuda))
                return rate(steps, 0.1 if run.tiny else min(5.0, run.left() / 3)) | common

            run.attempt(f"torch maml, {name}, {precision}", measure, least=3)


def problem(tasks: int, filters: int, *, cuda: bool) -> torch_maml.Problem:
    """conv4 with strides and a mean over positions, as published, on episodes of noise."""
    import torch
    from torch.nn import functional

    e = work.images(tasks, ways=5, shots=1, queries=1)
    e = e._replace(sx=e.sx[:, :, None], qx=e.qx[:, :, None])
    device = torch.device("cuda" if cuda else "cpu")
    made = torch_maml.Problem(
        conv4(filters).to(device), functional.cross_entropy, e, rate=0.4, steps=1
    )
    made.episodes = [part.to(device) for part in made.episodes]
    return made


def conv4(filters: int) -> Any:
    from torch import nn

    layers: list[Any] = []
    for channels in (1, filters, filters, filters):
        layers += [
            nn.Conv2d(channels, filters, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(filters, eps=1e-3, track_running_stats=False),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(filters, 5))


def one_by_one(p: torch_maml.Problem) -> work.Run:
    """`torch.autograd.grad` with `create_graph`, one task after another."""
    import torch
    from torch.func import functional_call

    names = [name for name, _ in p.net.named_parameters()]

    def adapted_loss(sx: Any, sy: Any, qx: Any, qy: Any) -> Any:
        params = dict(p.net.named_parameters())
        value = p.loss(functional_call(p.net, params, (sx,)), sy)
        grads = torch.autograd.grad(value, list(params.values()), create_graph=True)
        fast = {
            name: w - p.rate * g for name, w, g in zip(names, params.values(), grads, strict=True)
        }
        return p.loss(functional_call(p.net, fast, (qx,)), qy)

    return p.task_by_task(adapted_loss)


def rate(steps: Any, seconds: float) -> dict[str, Any]:
    """Steps per second; `steps(n)` returns a number of the last step, so it waits for it."""
    steps(3)
    begun = time.perf_counter()
    steps(2)
    count = max(1, int(2 * seconds / (time.perf_counter() - begun)))
    begun = time.perf_counter()
    steps(count)
    per_s = count / (time.perf_counter() - begun)
    return {"steps_per_s": per_s, "minutes_of_schedule": OMNIGLOT.steps / per_s / 60}
