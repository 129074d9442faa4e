"""The contestants in PyTorch, for MAML: torch.func, higher, torchopt and learn2learn."""

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import work
from benchmarks.work import Episodes, Run

Module = Any  # of torch.nn, which is not among the requirements


class Problem:
    """A network, its loss and its episodes, as torch has them."""

    def __init__(self, net: Module, loss: Any, e: Episodes, *, rate: float, steps: int) -> None:
        import torch

        self.net, self.loss, self.rate, self.steps = net, loss, rate, steps
        self.episodes = [torch.from_numpy(array) for array in e]
        self.count = len(e.sx)
        self.adam = torch.optim.Adam(net.parameters(), lr=work.OUTER_RATE)

    def run(self, backward: Callable[[], Any]) -> Run:
        """Steps of Adam; `backward` fills the gradients and gives the mean loss."""

        def steps(count: int) -> float:
            for _ in range(count):
                self.adam.zero_grad()
                value = backward()
                self.adam.step()
            return float(value)

        return steps

    def task_by_task(self, adapted_loss: Callable[..., Any]) -> Run:
        """The same of `adapted_loss(sx, sy, qx, qy)` of each task, gradients added up."""

        def backward() -> Any:
            total = 0.0
            for episode in zip(*self.episodes, strict=True):
                value = adapted_loss(*episode) / self.count
                value.backward()
                total += value.detach()
            return total

        return self.run(backward)


def conv_problem(*, tasks: int, steps: int) -> Problem:
    """conv4-64 with max-pooling and batch statistics, on images."""
    from torch.nn import functional

    e = work.images(tasks)
    e = e._replace(sx=e.sx[:, :, None], qx=e.qx[:, :, None])
    return Problem(conv4(5), functional.cross_entropy, e, rate=0.4, steps=steps)


def sine_problem(*, tasks: int) -> Problem:
    """An MLP of 40-40 on sine waves."""
    from torch.nn import functional

    return Problem(mlp(1, 40, 40, 1), functional.mse_loss, work.sines(tasks), rate=0.01, steps=1)


def conv4(outputs: int | None) -> Module:
    """The network and weights of `work.conv4_weights`."""
    import torch
    from torch import nn

    layers: list[Any] = []
    blocks = work.conv4_weights(outputs)
    for block in blocks[:4]:
        kernel = torch.from_numpy(block["kernel"]).permute(3, 2, 0, 1).contiguous()
        conv = nn.Conv2d(kernel.shape[1], kernel.shape[0], 3, padding=1, bias=False)
        conv.weight = nn.Parameter(kernel)
        norm = nn.BatchNorm2d(kernel.shape[0], eps=1e-3, track_running_stats=False)
        layers += [conv, norm, nn.ReLU(), nn.MaxPool2d(2)]
    layers.append(nn.Flatten())
    return nn.Sequential(*layers, *(_linear(block) for block in blocks[4:]))


def mlp(*widths: int) -> Module:
    """The network and weights of `work.mlp_weights`."""
    from torch import nn

    layers: list[Any] = []
    for block in work.mlp_weights(*widths):
        layers += [_linear(block), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _linear(block: dict[str, np.ndarray]) -> Module:
    import torch
    from torch import nn

    layer = nn.Linear(*block["kernel"].shape)
    layer.weight = nn.Parameter(torch.from_numpy(block["kernel"].T.copy()))
    layer.bias = nn.Parameter(torch.from_numpy(block["bias"].copy()))
    return layer


def torch_func(problem: Problem) -> Run:
    """`torch.func.grad` inside `torch.func.vmap`."""
    from torch.func import functional_call, grad, vmap

    p = problem

    def loss_of(params: Any, x: Any, y: Any) -> Any:
        return p.loss(functional_call(p.net, params, (x,)), y)

    def of_task(params: Any, sx: Any, sy: Any, qx: Any, qy: Any) -> Any:
        for _ in range(p.steps):
            grads = grad(loss_of)(params, sx, sy)
            params = {name: w - p.rate * grads[name] for name, w in params.items()}
        return loss_of(params, qx, qy)

    every = vmap(of_task, in_dims=(None, 0, 0, 0, 0))
    params = dict(p.net.named_parameters())

    def backward() -> Any:
        value = every(params, *p.episodes).mean()
        value.backward()
        return value.detach()

    return p.run(backward)


def higher(problem: Problem) -> Run:
    """Facebook's higher: a patched module and a differentiable optimizer, task by task."""
    import higher as library
    import torch

    p = problem
    inner = torch.optim.SGD(p.net.parameters(), lr=p.rate)

    def adapted_loss(sx: Any, sy: Any, qx: Any, qy: Any) -> Any:
        with library.innerloop_ctx(p.net, inner, copy_initial_weights=False) as (net, rule):
            for _ in range(p.steps):
                rule.step(p.loss(net(sx), sy))
            return p.loss(net(qx), qy)

    return p.task_by_task(adapted_loss)


def torchopt(problem: Problem) -> Run:
    """TorchOpt's MetaSGD, task by task."""
    import torchopt as library

    p = problem
    inner = library.MetaSGD(p.net, lr=p.rate)

    def backward() -> Any:
        values = []
        begin = [library.extract_state_dict(part, by="reference") for part in (p.net, inner)]
        for sx, sy, qx, qy in zip(*p.episodes, strict=True):
            for _ in range(p.steps):
                inner.step(p.loss(p.net(sx), sy))
            values.append(p.loss(p.net(qx), qy))
            for part, saved in zip((p.net, inner), begin, strict=True):
                library.recover_state_dict(part, saved)
        value = sum(values) / p.count
        value.backward()
        return value.detach()

    return p.run(backward)


def learn2learn(problem: Problem) -> Run:
    """learn2learn's MAML wrapper, task by task."""
    import learn2learn as library

    p = problem
    learner = library.algorithms.MAML(p.net, lr=p.rate, first_order=False)

    def adapted_loss(sx: Any, sy: Any, qx: Any, qy: Any) -> Any:
        clone = learner.clone()
        for _ in range(p.steps):
            clone.adapt(p.loss(clone(sx), sy))
        return p.loss(clone(qx), qy)

    return p.task_by_task(adapted_loss)


PEERS = {
    "torch.func": torch_func,
    "higher": higher,
    "torchopt": torchopt,
    "learn2learn": learn2learn,
}
