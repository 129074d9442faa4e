"""Update rules that keep a network able to learn, around any optax rule."""

from lml_jax.plasticity.continual_backprop import continual_backprop as continual_backprop
from lml_jax.plasticity.l2_init import l2_init as l2_init
from lml_jax.plasticity.redo import redo as redo
from lml_jax.plasticity.shrink_and_perturb import shrink_and_perturb as shrink_and_perturb
from lml_jax.plasticity.units import HiddenLayer as HiddenLayer
from lml_jax.plasticity.units import activations_of_mlp as activations_of_mlp
from lml_jax.plasticity.units import layers_of_mlp as layers_of_mlp
