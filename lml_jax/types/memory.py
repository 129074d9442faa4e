"""Memory banks."""

from typing import NamedTuple, Protocol

from jax import Array

from lml_jax.types.data import Key, PyTree


class BankInit(Protocol):
    """An empty bank for items like `item`: one item, a pytree whose leaves have no batch axis."""

    def __call__(self, item: PyTree, /) -> PyTree: ...


class BankInsert(Protocol):
    """The bank after items (leaves [n, ...]) were offered; `where` bool [n] False: not offered."""

    def __call__(
        self, bank: PyTree, items: PyTree, key: Key, /, where: Array | None = None
    ) -> PyTree: ...


class BankSample(Protocol):
    """n items drawn with replacement, and what each counts: (leaves [n, ...], [n]).

    What an item counts is a bool, whether it is real, or an importance weight >= 0.

    `weights` [G] are those of the bank's groups, `group` names one of them; a bank without groups
    has one.
    """

    def __call__(
        self,
        bank: PyTree,
        key: Key,
        /,
        *,
        n: int,
        weights: Array | None = None,
        group: Array | int | None = None,
    ) -> tuple[PyTree, Array]: ...


class BankContents(Protocol):
    """Everything a bank has room for, and what of it is real: (leaves [N, ...], bool [N])."""

    def __call__(self, bank: PyTree, /) -> tuple[PyTree, Array]: ...


class MemoryBank(NamedTuple):
    """A memory of fixed capacity; its state is an immutable pytree.

    `by_task` says that the groups of `sample` are the tasks of a stream, in their order.
    """

    init: BankInit
    insert: BankInsert
    sample: BankSample
    contents: BankContents
    by_task: bool = False
