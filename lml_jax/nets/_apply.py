"""Flax modules as functions of parameters."""

from typing import cast

from flax import linen as nn
from jax import Array

from lml_jax.types import Params


def outputs_of(module: nn.Module, params: Params, *inputs: Array) -> Array:
    """What a module without mutable state makes of its inputs."""
    # Typed by flax as outputs or (outputs, mutated variables); nothing is mutable here.
    return cast(Array, module.apply({"params": params}, *inputs))
