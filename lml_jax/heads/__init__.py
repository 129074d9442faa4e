"""Closed-form classifiers on features: learned in any order, merged, without stored examples."""

from lml_jax.heads.calibrated import calibrated_mean as calibrated_mean
from lml_jax.heads.encoders import encoder as encoder
from lml_jax.heads.encoders import identity as identity
from lml_jax.heads.encoders import random_features as random_features
from lml_jax.heads.gaussian import gaussian as gaussian
from lml_jax.heads.head import Head as Head
from lml_jax.heads.lda import lda as lda
from lml_jax.heads.learner import HEADS as HEADS
from lml_jax.heads.learner import head_learner as head_learner
from lml_jax.heads.learner import predictor as predictor
from lml_jax.heads.nearest_mean import nearest_mean as nearest_mean
from lml_jax.heads.ridge import choose_strength as choose_strength
from lml_jax.heads.ridge import ridge as ridge
from lml_jax.heads.statistics import Moments as Moments
from lml_jax.heads.statistics import Statistics as Statistics
from lml_jax.heads.statistics import empty as empty
from lml_jax.heads.statistics import forget as forget
from lml_jax.heads.statistics import grow as grow
from lml_jax.heads.statistics import learn as learn
from lml_jax.heads.statistics import merge as merge
from lml_jax.heads.statistics import unlearn as unlearn
