"""Pure, unreduced losses on arrays: `from jaxdistill import losses; losses.forward_kl(...)`."""

from jaxdistill.losses.cached import (
    sampled_forward_kl,
    sampled_forward_kl_from_parts,
    topk_classes_from_parts,
    topk_forward_kl,
    topk_jsd,
    topk_reverse_kl,
    topk_total_variation,
)
from jaxdistill.losses.divergence import (
    bernoulli_kl,
    forward_kl,
    jsd,
    mse_logits,
    reverse_kl,
    total_variation,
)
from jaxdistill.losses.feature import (
    attention_kl,
    attention_transfer,
    hidden_cosine,
    hidden_mse,
    minilm_relation,
)
from jaxdistill.losses.fused.api import FusedLoss, FusedTerm, fused_loss
from jaxdistill.losses.fused.mesh import fused_loss_on_mesh
from jaxdistill.losses.head import Projection
from jaxdistill.losses.task import cross_entropy, multilabel, regression, valid_labels

__all__ = [
    "FusedLoss",
    "FusedTerm",
    "Projection",
    "attention_kl",
    "attention_transfer",
    "bernoulli_kl",
    "cross_entropy",
    "forward_kl",
    "fused_loss",
    "fused_loss_on_mesh",
    "hidden_cosine",
    "hidden_mse",
    "jsd",
    "minilm_relation",
    "mse_logits",
    "multilabel",
    "regression",
    "reverse_kl",
    "sampled_forward_kl",
    "sampled_forward_kl_from_parts",
    "topk_classes_from_parts",
    "topk_forward_kl",
    "topk_jsd",
    "topk_reverse_kl",
    "topk_total_variation",
    "total_variation",
    "valid_labels",
]
