"""Losses: one function, one equation."""

from lml_jax.losses.adversarial import GAN_LOSSES as GAN_LOSSES
from lml_jax.losses.adversarial import GanLoss as GanLoss
from lml_jax.losses.adversarial import discriminator_loss as discriminator_loss
from lml_jax.losses.adversarial import gradient_penalty as gradient_penalty
from lml_jax.losses.adversarial import non_saturating as non_saturating
from lml_jax.losses.adversarial import non_saturating_loss as non_saturating_loss
from lml_jax.losses.adversarial import relativistic as relativistic
from lml_jax.losses.adversarial import relativistic_loss as relativistic_loss
from lml_jax.losses.adversarial import saturating as saturating
from lml_jax.losses.adversarial import saturating_loss as saturating_loss
from lml_jax.losses.parts import are_labels as are_labels
from lml_jax.losses.parts import check_labels as check_labels
from lml_jax.losses.parts import labelled as labelled
from lml_jax.losses.parts import mask_logits as mask_logits
from lml_jax.losses.parts import squared_distances as squared_distances
from lml_jax.losses.parts import weighted_mean as weighted_mean
from lml_jax.losses.predictive import bernoulli_nll as bernoulli_nll
from lml_jax.losses.predictive import cross_entropy as cross_entropy
from lml_jax.losses.predictive import distillation as distillation
from lml_jax.losses.predictive import gaussian_kl as gaussian_kl
from lml_jax.losses.predictive import gaussian_nll as gaussian_nll
from lml_jax.losses.predictive import squared_error as squared_error
