"""How parameters lie while they train, against how they are kept."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from jaxdistill.data.text import used_vocabulary
from jaxdistill.models.abstract import without_weights
from jaxdistill.models.layers import stacking
from jaxdistill.models.registry import Model
from jaxdistill.parallel.host_memory import in_host_memory
from jaxdistill.types import Tree


@dataclasses.dataclass(frozen=True)
class Layout:
    """How parameters lie while they train.

    Attributes:
      used_ids: the vocabulary's rows that take part; None for all.
      apart: whether layers are kept one by one instead of stacked.
    """

    used_ids: np.ndarray | None
    apart: bool

    def lay_out(self, model: Model) -> Model:
        """Return the model, of arrays or shapes, with its parameters laid out for training."""
        if model.axes is None or (self.used_ids is None and not self.apart):
            return model
        if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(model.params)):
            return without_weights(self._laid_out, model)
        with in_host_memory():
            return self._laid_out(model)

    def keep(self, model: Model, params: Tree) -> Tree:
        """Return trained parameters as `model` keeps them; unused rows stay unchanged."""
        if model.axes is None:
            return params
        if self.apart:
            params = stacking.restack(params, model.axes)
        if self.used_ids is None:
            return params
        whole = jax.device_get(model.params)
        return used_vocabulary.put_back(whole, params, model.axes, self.used_ids)

    def _laid_out(self, model: Model) -> Model:
        params = model.params
        if self.used_ids is not None:
            params = used_vocabulary.cut(params, model.axes, self.used_ids)
        if self.apart:
            params = stacking.unstack(params, model.axes)
        return dataclasses.replace(model, params=params)
