"""Comparisons of decoders with transformers on PyTorch, at the tokens that are not padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from models import parity

from jaxdistill.models.family import Model

LENGTHS = (12, 7, 7)


def rows() -> list[list[int]]:
    """Three texts of random tokens, two of them equally long: every length has to be compiled."""
    random = np.random.default_rng(0)
    return [[int(token) for token in random.integers(5, 99, length)] for length in LENGTHS]


def whole() -> dict[str, np.ndarray]:
    """A batch without padding."""
    return {"input_ids": np.array([rows()[0]] * 2, np.int32)}


def padded(side: str, *, positions: bool = True) -> dict[str, np.ndarray]:
    """Those texts in rows of equal length, padded on the left or on the right."""
    length = max(LENGTHS)
    names = ("input_ids", "attention_mask", "position_ids")
    batch = {name: np.zeros((len(LENGTHS), length), np.int32) for name in names}
    for i, text in enumerate(rows()):
        start = length - len(text) if side == "left" else 0
        span = slice(start, start + len(text))
        batch["input_ids"][i, span] = text
        batch["attention_mask"][i, span] = 1
        batch["position_ids"][i, span] = np.arange(len(text))
    if not positions:
        del batch["position_ids"]
    return batch


def packed(*, positions: bool = True) -> dict[str, np.ndarray]:
    """The first text with the second behind it in one row, the third in another."""
    texts = rows()
    names = ("input_ids", "segment_ids", "position_ids", "attention_mask")
    batch = {name: np.zeros((2, 22), np.int32) for name in names}
    places = [(0, 0, 1), (0, LENGTHS[0], 2), (1, 0, 1)]
    for text, (row, start, segment) in zip(texts, places, strict=True):
        span = slice(start, start + len(text))
        batch["input_ids"][row, span] = text
        batch["segment_ids"][row, span] = segment
        batch["position_ids"][row, span] = np.arange(len(text))
        batch["attention_mask"][row, span] = 1
    if not positions:
        del batch["position_ids"]
    return batch


def check_outputs(model: Model, theirs: Any, batch: dict[str, Any], tolerance: float) -> None:
    """Compare logits, every hidden state and every attention map, at real tokens."""
    import torch

    assert model.options is not None
    depth = model.config.num_hidden_layers
    with torch.no_grad():
        expected = parity.run_torch(
            theirs, batch, output_hidden_states=True, output_attentions=True
        )
    got = parity.run(model, batch, parity.all_taps(depth))
    real = batch["attention_mask"] > 0  # [B, T]
    pairs = {"embeddings": (got.features["embeddings"], expected.hidden_states[0])}
    for i in range(depth):
        hidden, attention = f"layers.{i}.hidden", f"layers.{i}.attention"
        pairs[hidden] = (got.features[hidden], expected.hidden_states[i + 1])
        pairs[attention] = tuple(
            np.swapaxes(np.asarray(maps), 1, 2)  # [B, T, H, T]
            for maps in (got.features[attention], expected.attentions[i])
        )
    plain = parity.run(model, batch)
    pairs["hidden without taps"] = (plain.hidden, expected.hidden_states[-1])
    if model.options.head == "lm":
        head = got.head()
        projected = got.hidden @ head.weights * head.scale
        if head.softcap is not None:
            projected = head.softcap * np.tanh(projected / head.softcap)
        for name, logits in (("logits", plain.logits), ("logits by the head", projected)):
            pairs[name] = (logits, expected.logits)
        assert plain.logits.dtype == jnp.float32
    for name, (ours, reference) in pairs.items():
        ours, reference = np.asarray(ours), np.asarray(reference)
        assert ours.shape == reference.shape, name
        np.testing.assert_allclose(
            ours[real], reference[real], rtol=0, atol=tolerance, err_msg=name
        )


def check_packed(model: Model, *, positions: Sequence[bool] = (False,)) -> None:
    """Packed rows, and rows padded on either side, give what each text gives alone.

    With `positions` the batches also say the position of each token, as the data pipeline does.
    """
    taps = ("layers.0.hidden", "layers.1.hidden")
    compiled = parity.compiled(lambda batch: model.apply(model.params, batch, taps=taps))

    def run(batch: dict[str, np.ndarray]) -> Any:
        return compiled({name: jnp.asarray(value) for name, value in batch.items()})

    alone = [run({"input_ids": np.array([text], np.int32)}) for text in rows()]
    for given in positions:
        together = run(packed(positions=given))
        for i, (row, start) in enumerate([(0, 0), (0, LENGTHS[0]), (1, 0)]):
            _same(alone[i], together, row, start, LENGTHS[i])
        for side in ("left", "right"):
            batch = run(padded(side, positions=given))
            for i, length in enumerate(LENGTHS):
                start = max(LENGTHS) - length if side == "left" else 0
                _same(alone[i], batch, i, start, length)


def _same(alone: Any, batch: Any, row: int, start: int, length: int) -> None:
    span = slice(start, start + length)
    np.testing.assert_allclose(batch.logits[row, span], alone.logits[0], rtol=0, atol=2e-5)
    for name, value in alone.features.items():
        np.testing.assert_allclose(batch.features[name][row, span], value[0], rtol=0, atol=2e-5)


def gradient_text(model: Model, depth_taps: tuple[str, ...] = ()) -> str:
    """The lowered program of a loss and its gradients."""
    batch = {name: jnp.asarray(value) for name, value in padded("right").items()}

    def loss(params: Any) -> jax.Array:
        outputs = model.apply(params, batch, taps=depth_taps)
        return jnp.square(outputs.logits).mean()

    return jax.jit(jax.value_and_grad(loss)).lower(model.params).as_text()
