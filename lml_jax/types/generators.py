"""Generators of the examples of a class or of a task."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from jax import Array

from lml_jax.types.data import Batch, Key, Metrics, PyTree, Task


class GeneratorState(Protocol):
    """State of a generator: any pytree that counts its updates."""

    @property
    def step(self) -> Array:
        """Updates done, int32."""

    @property
    def bad_step(self) -> Array:
        """The first step whose update was refused as non-finite, or -1."""


class GeneratorInit(Protocol):
    """A new generator for examples like x [n, ...]."""

    def __call__(self, key: Key, x: Array, /) -> Any: ...


class GeneratorStep(Protocol):
    """One update on a meta-batch of tasks."""

    def __call__(self, state: Any, tasks: Task, key: Key, /) -> tuple[Any, Metrics]: ...


class GeneratorEndTask(Protocol):
    """The generator after a task whose training examples are `batch`."""

    def __call__(self, state: Any, batch: Batch, key: Key, /) -> Any: ...


class Encode(Protocol):
    """The code of a support set: of the task, or of each of its classes."""

    def __call__(self, state: Any, support: Batch, key: Key, /) -> PyTree: ...


class Generate(Protocol):
    """n examples under a code; `y` is their label, or -1; weight 0 where nothing can be made.

    A `StreamGenerator` takes the code None for samples of the finished tasks, each as likely.
    """

    def __call__(self, state: Any, code: PyTree, key: Key, /, *, n: int) -> Batch: ...


class StreamGenerator(NamedTuple):
    """A generator of the classes of a stream, which keeps the finished tasks.

    Its state has `step` and `bad_step`, see `GeneratorState`.
    """

    init: GeneratorInit
    step: GeneratorStep
    end_task: GeneratorEndTask
    encode: Encode
    sample: Generate


class TaskGenerator(NamedTuple):
    """A generator of examples of a task, given the code of its support set.

    Its state has `step` and `bad_step`, see `GeneratorState`.
    """

    init: GeneratorInit
    step: GeneratorStep
    encode: Encode
    sample: Generate


class Generator(NamedTuple):
    """A generator of examples of a task, or of a class; its state is one immutable pytree."""

    # (key, x_example) -> state: params, optimiser state, EMA, frozen teacher, task codes
    init: Callable[[Key, Array], Any]
    encode: Callable[[Any, Batch, Key], Any]  # (state, support, key) -> code of a task, or classes
    step: Callable[[Any, Task, Key], tuple[Any, Metrics]]  # (state, tasks, key) -> (state, metrics)
    # (state, code, key, *, n) -> Batch: labelled, or y = -1. `code` None: of the finished tasks,
    # as the frozen teacher has them; weight 0 where there is none.
    sample: Callable[..., Batch]
