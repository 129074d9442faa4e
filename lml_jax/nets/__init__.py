"""Networks, the only package that imports flax."""

from lml_jax.nets.conditional import generator as generator
from lml_jax.nets.conditional import projection_discriminator as projection_discriminator
from lml_jax.nets.context import lstm_context as lstm_context
from lml_jax.nets.convnet import Block as Block
from lml_jax.nets.convnet import convnet as convnet
from lml_jax.nets.efficientnet import efficientnet_lite0 as efficientnet_lite0
from lml_jax.nets.feedforward import Norm as Norm
from lml_jax.nets.feedforward import conv4 as conv4
from lml_jax.nets.feedforward import mlp as mlp
from lml_jax.nets.stateful import StatefulNet as StatefulNet
from lml_jax.nets.stateful import bind as bind
