"""The contestants in JAX: this library, and the same learner over plain convolutions."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from benchmarks import work
from benchmarks.work import Arrays, Episodes, Run
from lml_jax import cpu, losses, nets, parallel
from lml_jax.learners.maml import maml
from lml_jax.learners.protonet import protonet
from lml_jax.lifelong.finetune import finetune
from lml_jax.lifelong.label_space import LabelSpace
from lml_jax.parallel import BatchLoss
from lml_jax.train import episode_loss, init_state, make_runner, make_train_step
from lml_jax.types import Batch, Learner, LifelongLearner, Loss, Net, Params, Task


def tasks_of(e: Episodes) -> Task:
    """The episodes as a `Task` on the device."""
    labels = e.sy.dtype.kind == "i"

    def part(x: Any, y: Any) -> Batch:
        return Batch(jnp.asarray(x), jnp.asarray(y, jnp.int32 if labels else None))

    return Task(part(e.sx, e.sy), part(e.qx, e.qy))


def run_of(
    learner: Learner,
    params: Params,
    e: Episodes,
    *,
    scan: bool = False,
    reduce: Callable[[Loss], BatchLoss] = parallel.vmap_mean,
    **options: Any,
) -> Run:
    """Steps of Adam on the mean loss of the episodes."""
    tx = optax.adam(work.OUTER_RATE)
    step = make_train_step(episode_loss(learner, **options), tx, reduce=reduce)
    many = make_runner(step, lambda tasks, key: tasks, scan=scan)
    tasks, key = tasks_of(e), jax.random.key(0)
    state = init_state(params, tx)

    def run(steps: int) -> float:
        nonlocal state
        state, metrics = many(state, tasks, key, steps)
        jax.block_until_ready(state)
        return float(metrics["loss"][-1])

    return run


def conv4_params(outputs: int | None) -> Params:
    """The weights of `work.conv4_weights`, by the names of `nets.conv4`."""
    blocks = work.conv4_weights(outputs)
    params: dict[str, Any] = {}
    for i, block in enumerate(blocks[:4], 1):
        width = block["kernel"].shape[-1]
        params[f"conv{i}"] = _arrays(block)
        params[f"norm{i}"] = {"scale": jnp.ones(width), "bias": jnp.zeros(width)}
    return params | {"head": _arrays(blocks[4])} if outputs else params


def mlp_params(*widths: int) -> Params:
    """The weights of `work.mlp_weights`, by the names of `nets.mlp`."""
    *hidden, head = map(_arrays, work.mlp_weights(*widths))
    return {f"layer{i}": layer for i, layer in enumerate(hidden, 1)} | {"head": head}


def _arrays(arrays: Arrays) -> dict[str, Array]:
    return {name: jnp.asarray(array) for name, array in arrays.items()}


def maml_conv(*, tasks: int, steps: int) -> Run:
    """Second-order MAML on conv4-64 with max-pooling and batch statistics, tasks over cores."""
    cpu.one_device_per_core()
    reduce = partial(parallel.shard_map_mean, at_once=1)
    return _maml_conv(nets.conv4(5, pool=True), tasks, steps, reduce=reduce)


def maml_conv_one_device(*, tasks: int, steps: int) -> Run:
    """The same on one device, whose cores share every convolution."""
    reduce = partial(parallel.vmap_mean, at_once=1)
    return _maml_conv(nets.conv4(5, pool=True), tasks, steps, reduce=reduce)


def maml_conv_vmap(*, tasks: int, steps: int) -> Run:
    """The same over convolutions, poolings and `vmap` as JAX has them."""

    def apply(params: Any, x: Array) -> Array:
        x = x[..., None]
        for i in range(1, 5):
            x = lax.conv_general_dilated(
                x,
                params[f"conv{i}"]["kernel"],
                (1, 1),
                "SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
            norm = params[f"norm{i}"]
            mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
            x = (x - mean) * lax.rsqrt(var + 1e-3) * norm["scale"] + norm["bias"]
            window = (1, 2, 2, 1)
            x = lax.reduce_window(jax.nn.relu(x), -jnp.inf, lax.max, window, window, "VALID")
        return x.reshape(len(x), -1) @ params["head"]["kernel"] + params["head"]["bias"]

    return _maml_conv(Net(lambda key, x: conv4_params(5), apply), tasks, steps)


def _maml_conv(net: Net, tasks: int, steps: int, **options: Any) -> Run:
    learner = maml(net, optax.sgd(0.4), steps=steps, unroll=True, remat=steps > 1)
    e = work.images(tasks)
    params = learner.init(jax.random.key(0), jnp.asarray(e.sx[0]))
    return run_of(learner, params | {"theta": conv4_params(5)}, e, **options)


def maml_sine(*, tasks: int) -> Run:
    """Second-order MAML on sine waves, an MLP of 40-40, one inner step."""
    learner = maml(
        nets.mlp([40, 40], 1),
        optax.sgd(0.01),
        steps=1,
        loss=losses.squared_error,
        unroll=True,
        remat=False,
    )
    e = work.sines(tasks)
    params = learner.init(jax.random.key(0), jnp.asarray(e.sx[0]))
    start = params | {"theta": mlp_params(1, 40, 40, 1)}
    return run_of(learner, start, e, scan=True, loss=losses.squared_error)


def protonet_conv(*, ways: int, shots: int, queries: int) -> Run:
    """A ProtoNet step over conv4-64 with max-pooling and batch statistics."""
    e = work.images(1, ways=ways, shots=shots, queries=queries)
    learner = protonet(nets.conv4(None, pool=True), classes=ways)
    params = learner.init(jax.random.key(0), jnp.asarray(e.sx[0]))
    return run_of(learner, params | {"net": conv4_params(None)}, e)


def head_trajectory(*, orders: int, width: int, classes: int, length: int) -> Run:
    """SGD of batch 1 through a sequence of features in several orders; a step is one of all."""
    features = work.features(width=width, classes=classes, length=length, orders=orders)
    tx = optax.sgd(work.HEAD_RATE)

    def loss(head: Params, x: Array, y: Array) -> Array:
        return losses.cross_entropy((x @ head["kernel"] + head["bias"])[None], y[None])[0]

    def one(head: Params, example: tuple[Array, Array]) -> tuple[Params, Array]:
        value, grads = jax.value_and_grad(loss)(head, *example)
        return optax.apply_updates(head, tx.update(grads, tx.init(head))[0]), value

    def through(head: Params, x: Array, y: Array) -> tuple[Params, Array]:
        return lax.scan(one, head, (x, y))

    whole = jax.jit(jax.vmap(through, in_axes=(None, 0, 0)))
    head = _arrays(work.mlp_weights(width, classes)[0])
    x, y = map(jnp.asarray, features)

    def run(steps: int) -> float:
        for _ in range(steps):
            _, values = jax.block_until_ready(whole(head, x, y))
        return float(values[:, -1].mean())

    return run


def online(*, tasks: int, samples: int, batch: int, hidden: int) -> Run:
    """The lifelong learner `finetune`, one pass over the tasks in batches, as they come."""
    x, y = work.stream(tasks=tasks, samples=samples)
    # Half of a batch is the support set of an episode, half the query set: finetune joins them.
    parts = [
        array.reshape(tasks, -1, 1, 2, batch // 2, *array.shape[2:]) for array in (x, y.astype("i"))
    ]
    support, query = (Batch(*(jnp.asarray(part[:, :, :, i]) for part in parts)) for i in (0, 1))
    whole = Batch(jnp.asarray(x), jnp.asarray(y, jnp.int32))
    net = nets.mlp([hidden, hidden], 2 * tasks)
    space = LabelSpace(tasks=tasks, initial=jnp.ones(2 * tasks, bool))
    rule = optax.sgd(work.ONLINE_RATE)
    learner = finetune(maml(net, optax.sgd(0.1), steps=1), rule, space)
    weights = mlp_params(x.shape[-1], hidden, hidden, 2 * tasks)
    params = {"theta": weights, "alpha": ()}

    def of_task(state: Any, task: tuple[Array, Task, Batch]) -> tuple[Any, Array]:
        i, episodes, every = task
        ids = jnp.full((samples // batch, 1), i)
        step = partial(_one, learner)
        state, values = lax.scan(step, state, episodes._replace(id=ids))
        return learner.end_task(state, every, jax.random.key(0)), values[-1]

    @jax.jit
    def through(params: Params, stream: Any) -> Array:
        state = learner.init(jax.random.key(0), whole.x[0], params)
        return lax.scan(of_task, state, stream)[1][-1]

    stream = (jnp.arange(tasks), Task(support, query), whole)

    def run(steps: int) -> float:
        for _ in range(steps):
            value = float(through(params, stream))
        return value

    return run


def _one(learner: LifelongLearner, state: Any, episodes: Task) -> tuple[Any, Array]:
    state, metrics = learner.step(state, episodes, jax.random.key(0))
    return state, metrics["loss"]
