"""Networks, losses and few-shot learners."""

from typing import NamedTuple, Protocol

from jax import Array

from lml_jax.types.data import Batch, Fast, Key, Metrics, Params, PyTree, Task


class Apply(Protocol):
    """Outputs of a network: logits [n, C], embeddings [n, d] or predictions [n, d]."""

    def __call__(self, params: Params, x: Array, /) -> Array: ...


class Init(Protocol):
    """New parameters for examples like x [n, ...]."""

    def __call__(self, key: Key, x: Array, /) -> Params: ...


class Freeze(Protocol):
    """Parameters that hold the batch statistics of x [n, ...]; outputs then depend on one input."""

    def __call__(self, params: Params, x: Array, /) -> Params: ...


class Net(NamedTuple):
    """A network as pure functions; a model of any library fits.

    Learners give it images of uint8 as floats in 0..1, see `pixels.on_floats`.

    `freeze` is None for a network without batch statistics.
    """

    init: Init
    apply: Apply
    freeze: Freeze | None = None


class ContextSupport(Protocol):
    """Embeddings g [n, d] of support embeddings z [n, d], each in the context of all of them."""

    def __call__(self, params: Params, z: Array, weight: Array, /) -> Array: ...


class ContextQuery(Protocol):
    """Embeddings f [q, d] of query embeddings z [q, d], each in the context of g [n, d]."""

    def __call__(self, params: Params, z: Array, g: Array, weight: Array, /) -> Array: ...


class Context(NamedTuple):
    """Embeddings in the context of a support set, as pure functions of embeddings.

    `weight` [n] is that of the support examples; one of weight 0 changes nothing for the others.
    """

    init: Init  # (key, z [n, d]) -> params
    support: ContextSupport
    query: ContextQuery


class ConditionalInit(Protocol):
    """New parameters for inputs like x [n, ...] and codes like h [n, k]."""

    def __call__(self, key: Key, x: Array, h: Array, /) -> Params: ...


class ConditionalApply(Protocol):
    """Outputs [n, ...] for inputs x [n, ...] under codes h [n, k]."""

    def __call__(self, params: Params, x: Array, h: Array, /) -> Array: ...


class ConditionalNet(NamedTuple):
    """A network of two inputs: examples or noise x, and codes h; a model of any library fits."""

    init: ConditionalInit
    apply: ConditionalApply


class ExampleLoss(Protocol):
    """Losses [n] of outputs [n, ...] for labels or targets y [n, ...], one per example."""

    def __call__(self, outputs: Array, y: Array, /) -> Array: ...


class Loss(Protocol):
    """The loss of one task: everything that is minimised has this signature.

    What all tasks of a meta-batch share, a memory bank say, follows the key. Returns the scalar
    and metrics (scalars by name).
    """

    def __call__(
        self, params: Params, task: Task, key: Key, /, *shared: PyTree
    ) -> tuple[Array, Metrics]: ...


class Adapt(Protocol):
    """Learn from a support set.

    `fast` None starts from the parameters; else adaptation continues from it. An empty support
    set gives the start. `labels` bool [C] or [n, C] are the active classes: the loss is a softmax
    over them alone, and examples of other classes are not learned. None: all classes.
    """

    def __call__(
        self,
        params: Params,
        support: Batch,
        key: Key,
        fast: Fast | None = None,
        labels: Array | None = None,
    ) -> Fast: ...


class Predict(Protocol):
    """Logits [n, C], or outputs [n, d], of x [n, ...] after adaptation."""

    def __call__(self, params: Params, fast: Fast, x: Array, /) -> Array: ...


class Learner(NamedTuple):
    """A few-shot learner: adapt to a support set, then predict.

    `inner_step` is `adapt` by exactly one inner step, however many `adapt` takes; None for a
    learner without inner steps.
    """

    init: Init
    adapt: Adapt
    predict: Predict
    inner_step: Adapt | None = None
