"""Losses, one function and one equation each; labels, weights and distances that they share."""

from lml_jax.losses.adversarial import discriminator_loss as discriminator_loss
from lml_jax.losses.adversarial import gradient_penalty as gradient_penalty
from lml_jax.losses.adversarial import non_saturating_loss as non_saturating_loss
from lml_jax.losses.adversarial import relativistic_loss as relativistic_loss
from lml_jax.losses.adversarial import saturating_loss as saturating_loss
from lml_jax.losses.classification import cross_entropy as cross_entropy
from lml_jax.losses.classification import distillation as distillation
from lml_jax.losses.classification import mask_logits as mask_logits
from lml_jax.losses.distances import squared_distances as squared_distances
from lml_jax.losses.labels import are_labels as are_labels
from lml_jax.losses.labels import as_labels as as_labels
from lml_jax.losses.labels import check_labels as check_labels
from lml_jax.losses.labels import check_task as check_task
from lml_jax.losses.labels import label_report as label_report
from lml_jax.losses.labels import nan_where as nan_where
from lml_jax.losses.labels import outside as outside
from lml_jax.losses.likelihood import bernoulli_nll as bernoulli_nll
from lml_jax.losses.likelihood import gaussian_kl as gaussian_kl
from lml_jax.losses.likelihood import gaussian_nll as gaussian_nll
from lml_jax.losses.likelihood import squared_error as squared_error
from lml_jax.losses.weights import at_least_float32 as at_least_float32
from lml_jax.losses.weights import concatenated as concatenated
from lml_jax.losses.weights import fill_padding as fill_padding
from lml_jax.losses.weights import labelled as labelled
from lml_jax.losses.weights import weighted_mean as weighted_mean
