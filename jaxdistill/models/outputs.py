"""What every model returns: one registered pytree, whatever the family."""

from __future__ import annotations

import dataclasses

import jax

from jaxdistill.errors import ModelError
from jaxdistill.losses.head import Head
from jaxdistill.types import Tree

__all__ = ["Head", "Outputs"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Outputs:
    """Outputs of one forward pass; fields a model does not have are None.

    Attributes:
      logits: `[B, C]` for classification and regression, `[B, T, V]` for token models.
      hidden: last hidden state, `[B, T, D]` or `[B, D]`.
      features: the taps asked for, by name: `embeddings`, `layers.{i}.hidden`,
        `layers.{i}.attention`, `pooled`.
      head_parameters: the last projection, for losses that never build the logits.
      model_state: updated non-trained state (batch statistics) after a training pass.
    """

    logits: jax.Array | None = None
    hidden: jax.Array | None = None
    features: dict[str, jax.Array] = dataclasses.field(default_factory=dict)
    head_parameters: Head | None = None
    model_state: Tree = None

    def head(self) -> Head:
        """Return the last projection.

        Raises:
          ModelError: the model does not expose one.
        """
        if self.head_parameters is None:
            raise ModelError(
                "head: this model exposes no output projection; got None, expected weights [D, V]; "
                "return Outputs(head_parameters=Head(weights, bias)) from its apply function"
            )
        return self.head_parameters
