"""A bare-function model pair and batches with unequal padding, for tests of the step."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill import losses
from jaxdistill.engine.objective import Objective, features_term, logits_term, task_term
from jaxdistill.models.outputs import Outputs

CLASSES, WIDTH, LENGTH = 3, 8, 6


def init(seed: int) -> dict:
    keys = jax.random.split(jax.random.key(seed), 3)
    return {
        "embedding": jax.random.normal(keys[0], (20, WIDTH)),
        "kernel": jax.random.normal(keys[1], (WIDTH, WIDTH)) * 0.3,
        "classifier": jax.random.normal(keys[2], (WIDTH, CLASSES)) * 0.3,
    }


def apply(params, batch, *, rng=None, train=False, taps=()) -> Outputs:
    """A token model: embed, one tanh layer, masked mean, classify."""
    mask = batch["attention_mask"].astype(jnp.float32)
    hidden = jnp.tanh(params["embedding"][batch["input_ids"]] @ params["kernel"])  # [B, T, D]
    summed = jnp.einsum("btd,bt->bd", hidden, mask)
    pooled = summed / jnp.maximum(mask.sum(-1, keepdims=True), 1.0)
    features = {"layers.0.hidden": hidden} if "layers.0.hidden" in taps else {}
    return Outputs(logits=pooled @ params["classifier"], hidden=hidden, features=features)


def make_batch(rows: int, seed: int, *, short: bool = True) -> dict:
    """Rows with lengths that grow along the batch, so that parts of it hold unequal tokens."""
    rng = np.random.default_rng(seed)
    lengths = 1 + (np.arange(rows) * (LENGTH - 1)) // max(rows - 1, 1)
    mask = (np.arange(LENGTH)[None] < lengths[:, None]).astype(np.int32)
    weight = np.ones(rows, np.float32)
    if short:
        weight[-rows // 4 :] = 0.0
        mask[-rows // 4 :] = 0
    return {
        "input_ids": rng.integers(0, 20, (rows, LENGTH)).astype(np.int32) * mask,
        "attention_mask": mask,
        "labels": rng.integers(0, CLASSES, rows).astype(np.int32),
        "weight": weight,
    }


def objective() -> Objective:
    """Terms over examples and over tokens: their weights differ from part to part."""
    return Objective(
        {
            "soft": logits_term(losses.forward_kl, temperature=2.0, weight=0.7),
            "hard": task_term(losses.cross_entropy, weight=0.3),
            "hidden": features_term(losses.hidden_mse, {0: 0}, weight=2.0),
        }
    )
