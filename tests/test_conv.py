"""`conv2d` against `lax.conv_general_dilated`, task by task, through every transformation."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

from lml_jax.nets import _batched_conv as conv
from lml_jax.nets import _conv_forms as forms
from lml_jax.nets._batched_conv import conv2d

# (images, kernel, stride): odd and even sizes, one channel, 1x1 images, kernels not square
CASES = [
    ((5, 8, 8, 1), (3, 3, 1, 6), 2),
    ((2, 7, 6, 3), (3, 3, 3, 4), 2),
    ((2, 5, 4, 3), (3, 3, 3, 4), 1),
    ((2, 9, 7, 2), (2, 5, 2, 3), 3),
    ((3, 1, 1, 2), (3, 3, 2, 2), 2),
    ((2, 6, 6, 2), (1, 1, 2, 3), 2),
]


pytestmark = pytest.mark.usefixtures("x64")


def reference(x, w, *, stride=1):
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, w, (stride, stride), "SAME", dimension_numbers=numbers)


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape, jnp.float64)


def assert_close(got, want):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9), got, want)


def looped(f, in_axes, *args):
    """What `vmap` means, as a Python loop."""
    size = next(a.shape[d] for a, d in zip(args, in_axes, strict=True) if d is not None)

    def pick(t):
        return [a if d is None else jnp.take(a, t, d) for a, d in zip(args, in_axes, strict=True)]

    return jax.tree.map(lambda *ys: jnp.stack(ys), *(f(*pick(t)) for t in range(size)))


def value_and_derivatives(f):
    """Value, both gradients of a nonlinear scalar, and a tangent, at (x, w)."""

    def both(x, w):
        def scalar(x, w):
            return jnp.sum(jnp.sin(f(x, w)))

        tangents = jax.jvp(f, (x, w), (jnp.cos(x), jnp.sin(w)))[1]
        return f(x, w), jax.grad(scalar, (0, 1))(x, w), tangents

    return jax.jit(both)


@pytest.mark.parametrize(("x", "w", "stride"), CASES)
def test_value_gradients_and_tangents(x, w, stride):
    x, w = normal(0, *x), normal(1, *w)
    got = value_and_derivatives(partial(conv2d, stride=stride))(x, w)
    assert_close(got, value_and_derivatives(partial(reference, stride=stride))(x, w))


@pytest.mark.parametrize(
    ("in_axes", "stride"),
    [((0, 0), 2), ((0, None), 2), ((None, 0), 2), ((2, 4), 1), ((None, 3), 1), ((3, None), 1)],
)
def test_vmap_equals_a_loop_over_tasks(in_axes, stride):
    x, w = (2, 5, 4, 3), (3, 3, 3, 2)
    shapes = [s if d is None else (*s[:d], 3, *s[d:]) for s, d in zip((x, w), in_axes, strict=True)]
    x, w = (normal(i, *s) for i, s in enumerate(shapes))
    got = jax.jit(jax.vmap(value_and_derivatives(partial(conv2d, stride=stride)), in_axes))(x, w)
    want = looped(value_and_derivatives(partial(reference, stride=stride)), in_axes, x, w)
    assert_close(got, want)


@pytest.mark.parametrize("inner", [(0, 0), (0, None), (None, 0)])
@pytest.mark.parametrize("outer", [(0, 0), (0, None), (None, 0)])
def test_nested_vmap(inner, outer):
    shapes = [(2, 5, 4, 3), (3, 3, 3, 2)]
    shapes = [s if d is None else (3, *s) for s, d in zip(shapes, inner, strict=True)]
    shapes = [s if d is None else (2, *s) for s, d in zip(shapes, outer, strict=True)]
    x, w = (normal(i, *s) for i, s in enumerate(shapes))
    ours, theirs = (value_and_derivatives(partial(f, stride=2)) for f in (conv2d, reference))
    got = jax.jit(jax.vmap(jax.vmap(ours, inner), outer))(x, w)
    assert_close(got, looped(partial(looped, theirs, inner), outer, x, w))


def meta_loss(f, *, steps=1, scan=False):
    """The query loss after inner SGD steps on a two-layer net, for one task."""

    def loss(params, x):
        h = jnp.tanh(f(x, params[0], stride=2))
        return jnp.mean(jnp.square(f(h, params[1], stride=1) - 1.0))

    def sgd(params, support):
        g = jax.grad(loss)(params, support)
        return jax.tree.map(lambda p, g: p - 0.3 * g, params, g)

    def task(params, support, query):
        if scan:
            body = jax.checkpoint(lambda p, _: (sgd(p, support), None))
            params, _ = lax.scan(body, params, None, length=steps)
        else:
            for _ in range(steps):
                params = sgd(params, support)
        return loss(params, query)

    return task


def meta_arguments():
    return (
        (normal(0, 3, 3, 1, 3), normal(1, 3, 3, 3, 2)),
        normal(2, 2, 2, 6, 5, 1),
        normal(3, 2, 3, 6, 5, 1),
    )


@pytest.mark.parametrize("scan", [False, True])
def test_second_order_through_inner_steps(scan):
    params, support, query = meta_arguments()

    def mean(f, over, **options):
        task = meta_loss(f, steps=2, **options)
        return lambda p, s, q: jnp.mean(over(partial(task, p), (0, 0))(s, q))

    def loop(f, in_axes):
        return partial(looped, f, in_axes)

    got = jax.jit(jax.value_and_grad(mean(conv2d, jax.vmap, scan=scan)))(params, support, query)
    assert_close(got, jax.jit(jax.value_and_grad(mean(reference, loop)))(params, support, query))


def test_forward_mode_over_reverse_and_jacobians():
    params, support, query = meta_arguments()

    def derivatives(f):
        def mean(p):
            return jnp.mean(jax.vmap(partial(meta_loss(f), p))(support, query))

        linear = jax.linearize(jax.grad(mean), params)[1]
        return (
            jax.jvp(jax.grad(mean), (params,), (params,)),
            jax.jacfwd(mean)(params),
            linear(params),
        )

    assert_close(
        jax.jit(partial(derivatives, conv2d))(), jax.jit(partial(derivatives, reference))()
    )


def test_third_order():
    def third(f):
        def scalar(w):
            return jnp.sum(jnp.sin(f(normal(0, 1, 3, 3, 1), w)))

        return jax.jit(jax.jacfwd(jax.jacrev(jax.grad(scalar))))(normal(1, 1, 2, 1, 1))

    assert_close(third(conv2d), third(reference))


def test_without_jit():
    x, w = normal(0, 1, 3, 3, 1), normal(1, 2, 2, 1, 1)
    assert_close(conv2d(x, w, stride=2), reference(x, w, stride=2))


@pytest.mark.parametrize("form", ["native", "patches", "grouped"])
@pytest.mark.parametrize(("x", "w", "stride"), CASES)
def test_every_form_computes_the_same(form, x, w, stride):
    x, w = normal(0, 2, *x), normal(1, 2, *w)
    sizes = {"stride": stride, "image": x.shape[2:4], "kernel": w.shape[1:3]}

    @jax.jit
    def ask(x, w):
        y, transpose = jax.vjp(jax.vmap(partial(reference, stride=stride)), x, w)
        return y, *transpose(jnp.cos(y))

    outs = "yx" if form == "native" else "yxw"
    want = ask(x, w)
    y = jnp.cos(want[0])
    inputs = {"y": (x, w), "x": (w, y), "w": (x, y)}
    f = jax.jit(lambda i: tuple(getattr(forms, form)(*i[o], out=o, **sizes) for o in outs))
    assert_close(f(inputs), want[: len(outs)])


def test_shared_kernels_are_one_ordinary_convolution_and_nothing_is_grouped(monkeypatch):
    monkeypatch.setattr(forms, "_PATCH_BYTES", 0)  # by default, arrays this small become patches
    x, w = normal(0, 4, 5, 6, 6, 3), normal(1, 3, 3, 3, 8)
    shared = jax.jit(jax.vmap(conv2d, (0, None))).lower(x, w).as_text()
    assert shared.count("stablehlo.convolution") == 1
    grads = jax.vmap(jax.grad(lambda w, x: jnp.sum(jnp.sin(conv2d(x, w)))), (None, 0))
    meta = jax.jit(jax.grad(lambda w, x: jnp.sum(grads(w, x) ** 2)))
    for text in (shared, meta.lower(w, x).as_text()):
        assert "feature_group_count = 1" in text or "stablehlo.convolution" not in text
        assert text.count("stablehlo.convolution") == text.count("feature_group_count = 1")
        assert text.count("stablehlo.convolution") == text.count("batch_group_count = 1")


def test_the_second_call_does_not_trace():
    traces = []

    @jax.jit
    def step(w, x):
        traces.append(1)
        return jax.vmap(jax.grad(lambda w, x: jnp.sum(conv2d(x, w))))(w, x)

    for seed in (0, 1):
        step(normal(seed, 2, 3, 3, 1, 4), normal(seed, 2, 5, 4, 4, 1))
    assert len(traces) == 1


def lowered_for(platform):
    """A convolution with a kernel per task and both of its gradients, as text."""
    x, w = normal(0, 4, 2, 6, 6, 3), normal(1, 4, 3, 3, 3, 8)
    f = jax.jit(value_and_derivatives(jax.vmap(conv2d)))
    return f.trace(x, w).lower(lowering_platforms=(platform,)).as_text()


def test_lowering_for_other_platforms_has_no_convolution():
    text = lowered_for("tpu")
    assert "stablehlo.convolution" not in text
    assert "stablehlo.dot_general" in text


@pytest.mark.parametrize("platform", ["cuda", "rocm"])
def test_lowering_for_gpus_is_one_grouped_convolution_for_each_output(platform):
    text = lowered_for(platform)
    groups = [text.count(f"{which}_group_count = 4") for which in ("feature", "batch")]
    assert sum(groups) == text.count("stablehlo.convolution") > 0
    assert "stablehlo.dot_general" not in text


@pytest.mark.parametrize("lowering", [None, "grouped"])
@pytest.mark.parametrize("check_vma", [True, False])
def test_inside_shard_map(check_vma, lowering):
    mesh = jax.make_mesh((1,), ("tasks",), axis_types=(jax.sharding.AxisType.Auto,))
    params, support, query = meta_arguments()
    task = meta_loss(conv2d)

    def mean(p, s, q):
        if check_vma:
            p = lax.pcast(p, "tasks", to="varying")
        return lax.pmean(jnp.mean(jax.vmap(partial(task, p))(s, q)), "tasks")

    sharded = jax.shard_map(
        mean, mesh=mesh, in_specs=(P(), P("tasks"), P("tasks")), out_specs=P(), check_vma=check_vma
    )

    def plain(p, s, q):
        return jnp.mean(jax.vmap(partial(task, p))(s, q))

    with conv.lowering(lowering):
        got = jax.jit(jax.value_and_grad(sharded))(params, support, query)
    assert_close(got, jax.jit(jax.value_and_grad(plain))(params, support, query))


def test_shared_kernel_in_shard_map_is_cast_as_jax_does():
    mesh = jax.make_mesh((1,), ("tasks",), axis_types=(jax.sharding.AxisType.Auto,))
    x, w = normal(0, 2, 4, 4, 1), normal(1, 3, 3, 1, 2)
    f = jax.shard_map(conv2d, mesh=mesh, in_specs=(P("tasks"), P()), out_specs=P("tasks"))
    assert_close(jax.jit(f)(x, w), reference(x, w))


def test_inside_pmap():
    x, w = normal(0, 1, 2, 4, 4, 1), normal(1, 3, 3, 1, 2)
    grad = jax.grad(lambda w, x: jnp.sum(jnp.sin(conv2d(x, w))))
    assert_close(jax.pmap(grad, in_axes=(None, 0))(w, x)[0], grad(w, x[0]))


def test_low_precision_is_kept():
    x, w = normal(0, 2, 4, 4, 1).astype(jnp.bfloat16), normal(1, 3, 3, 1, 2).astype(jnp.bfloat16)
    assert conv2d(x, w).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("x", "w", "stride", "message"),
    [
        ((4, 4, 1), (3, 3, 1, 2), 1, r"channels in.*got \(4, 4, 1\)"),
        ((2, 4, 4, 1), (3, 3, 2, 2), 1, r"got \(2, 4, 4, 1\) and \(3, 3, 2, 2\)"),
        ((2, 4, 4, 1), (3, 3, 1, 2), 0, "stride must be at least 1, got 0"),
    ],
)
def test_wrong_arguments_are_named(x, w, stride, message):
    with pytest.raises(ValueError, match=message):
        conv2d(jnp.ones(x), jnp.ones(w), stride=stride)


def test_dtypes_are_not_mixed():
    with pytest.raises(ValueError, match="one floating dtype, got float32 and float64"):
        conv2d(jnp.ones((2, 4, 4, 1), jnp.float32), jnp.ones((3, 3, 1, 2), jnp.float64))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", conv.LOWERINGS)
def test_every_lowering_gives_the_same_derivatives(name, stride):
    x, w = normal(0, 3, 2, 7, 6, 3), normal(1, 3, 3, 3, 3, 4)
    convolve = jax.vmap(partial(conv2d, stride=stride))

    def derivatives(x, w):
        def first(w):
            return jax.grad(lambda x: jnp.sum(jnp.sin(convolve(x, w))))(x)

        return value_and_derivatives(convolve)(x, w), jax.grad(lambda w: jnp.sum(first(w) ** 2))(w)

    want = derivatives(x, w)
    with conv.lowering(name):
        program = jax.jit(derivatives)
        assert f"lowering={name}" in str(jax.make_jaxpr(derivatives)(x, w))
        assert_close(program(x, w), want)


def test_a_function_is_traced_again_under_another_lowering():
    traces = []

    @jax.jit
    def f(x, w):
        traces.append(1)
        return conv2d(x, w)

    x, w = normal(0, 2, 5, 4, 3), normal(1, 3, 3, 3, 4)
    for name in (None, "grouped", "patches", "grouped", None):
        with conv.lowering(name):
            f(x, w)
    assert len(traces) == 3


def test_an_unknown_lowering_is_named():
    with (
        pytest.raises(ValueError, match="unknown lowering 'native'"),
        conv.lowering("native"),
    ):
        pass
