"""The contestants in PyTorch for what is not MAML: ProtoNet, a head's trajectory, an online run."""

import math
from typing import Any

from benchmarks import work
from benchmarks.torch_maml import conv4, mlp
from benchmarks.work import Run


def protonet_conv(*, ways: int, shots: int, queries: int) -> Run:
    """A ProtoNet step; support and query sets embedded in one call each."""
    import torch
    from torch.nn import functional

    e = work.images(1, ways=ways, shots=shots, queries=queries)
    sx, qx = (torch.from_numpy(x[0])[:, None] for x in (e.sx, e.qx))
    y = torch.from_numpy(e.qy[0])
    net = conv4(None)
    adam = torch.optim.Adam(net.parameters(), lr=work.OUTER_RATE)

    def run(steps: int) -> float:
        for _ in range(steps):
            adam.zero_grad()
            prototypes = net(sx).reshape(ways, shots, -1).mean(1)
            logits = -(torch.cdist(net(qx), prototypes) ** 2)
            value = functional.cross_entropy(logits, y)
            value.backward()
            adam.step()
        return float(value.detach())

    return run


def head_trajectory(*, orders: int, width: int, classes: int, length: int) -> Run:
    """Batches of 1, one order after another, as OML and ANML do."""
    import torch
    from torch.nn import functional

    features = work.features(width=width, classes=classes, length=length, orders=orders)
    x, y = (torch.from_numpy(array) for array in features)

    def run(steps: int) -> float:
        for _ in range(steps):
            last = []
            for one_x, one_y in zip(x, y, strict=True):
                head = mlp(width, classes)
                sgd = torch.optim.SGD(head.parameters(), lr=work.HEAD_RATE)
                for t in range(length):
                    sgd.zero_grad()
                    value = functional.cross_entropy(head(one_x[t : t + 1]), one_y[t : t + 1])
                    value.backward()
                    sgd.step()
                last.append(float(value.detach()))
        return sum(last) / orders

    return run


def head_trajectory_batched(*, orders: int, width: int, classes: int, length: int) -> Run:
    """All orders at once in one batched product, the gradient by autograd."""
    import torch
    from torch.nn import functional

    features = work.features(width=width, classes=classes, length=length, orders=orders)
    x, y = (torch.from_numpy(array) for array in features)
    layer = mlp(width, classes)[0]

    def run(steps: int) -> float:
        for _ in range(steps):
            kernel = layer.weight.detach().T.repeat(orders, 1, 1).requires_grad_()
            bias = layer.bias.detach().repeat(orders, 1, 1).requires_grad_()
            sgd = torch.optim.SGD([kernel, bias], lr=work.HEAD_RATE)
            for t in range(length):
                sgd.zero_grad()
                logits = torch.baddbmm(bias, x[:, t : t + 1], kernel)[:, 0]
                value = functional.cross_entropy(logits, y[:, t], reduction="sum")
                value.backward()
                sgd.step()
        return float(value.detach()) / orders

    return run


def online(*, tasks: int, samples: int, batch: int, hidden: int) -> Run:
    """A plain loop: one pass over the tasks in batches, as they come."""
    import torch
    from torch.nn import functional

    x, y = (torch.from_numpy(a) for a in work.stream(tasks=tasks, samples=samples))
    x, y = x.reshape(-1, batch, x.shape[-1]), y.reshape(-1, batch)

    def run(steps: int) -> float:
        for _ in range(steps):
            net = mlp(x.shape[-1], hidden, hidden, 2 * tasks)
            sgd = torch.optim.SGD(net.parameters(), lr=work.ONLINE_RATE)
            for some_x, some_y in zip(x, y, strict=True):
                sgd.zero_grad()
                value = functional.cross_entropy(net(some_x), some_y)
                value.backward()
                sgd.step()
        return float(value.detach())

    return run


def online_avalanche(*, tasks: int, samples: int, batch: int, hidden: int) -> Run:
    """Avalanche's Naive strategy, one epoch of each experience, no plugin and no logger."""
    import torch
    from avalanche.benchmarks import tensors_benchmark
    from avalanche.training import Naive
    from torch import nn

    x, y = (torch.from_numpy(a) for a in work.stream(tasks=tasks, samples=samples))
    parts: Any = list(zip(x, y, strict=True))
    benchmark = tensors_benchmark(
        train_tensors=parts, test_tensors=parts[:1], task_labels=[0] * tasks
    )

    def run(steps: int) -> float:
        for _ in range(steps):
            net = mlp(x.shape[-1], hidden, hidden, 2 * tasks)
            strategy = Naive(
                model=net,
                optimizer=torch.optim.SGD(net.parameters(), lr=work.ONLINE_RATE),
                criterion=nn.CrossEntropyLoss(),
                train_mb_size=batch,
                train_epochs=1,
                evaluator=None,
            )
            for experience in benchmark.train_stream:
                strategy.train(experience)
        return math.nan  # it forgets its loss when it is done

    return run
