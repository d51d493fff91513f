"""What a model is asked to go on with: prompts as it reads them, and numbers that make sense."""

from __future__ import annotations

import jax
import numpy as np
from jax.typing import ArrayLike

from jaxdistill.errors import ConfigError, DataError, ModelError
from jaxdistill.models.layers.decoder_layer import Shape
from jaxdistill.models.layers.seq2seq_layer import TwoStacks


def check_sampling(
    shape: Shape | TwoStacks,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    vocabulary: int | None,
) -> None:
    """Raise ConfigError where a number is out of its range."""
    if not 0 <= temperature < float("inf"):
        raise ConfigError(f"temperature: got {temperature}, expected 0 (the likeliest) or more")
    if top_k is not None and top_k < 1:
        raise ConfigError(f"top_k: got {top_k}, expected at least 1, or None for all tokens")
    if top_p is not None and not 0 < top_p <= 1:
        raise ConfigError(f"top_p: got {top_p}, expected above 0 and at most 1")
    if vocabulary is not None and not 1 <= vocabulary <= shape.vocabulary:
        raise ConfigError(
            f"vocabulary: got {vocabulary}, expected 1 to {shape.vocabulary}, the columns of the "
            "model's head"
        )


def check_writing(
    max_new_tokens: int, multiple: int, temperature: float, rng: jax.Array | None
) -> None:
    """Raise ConfigError where there is nothing to write, or no key to draw with."""
    for name, value in (("max_new_tokens", max_new_tokens), ("multiple", multiple)):
        if value < 1:
            raise ConfigError(f"{name}: got {value}, expected at least 1")
    if temperature != 0 and rng is None:
        raise ConfigError(
            f"rng: got None at temperature {temperature}, expected a key such as "
            "jax.random.key(0); or set temperature=0"
        )


def checked_ids(
    name: str, token_ids: ArrayLike, token_mask: ArrayLike | None, vocabulary: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return token ids `[B, T]` and which of them are real, boolean.

    Raises:
      DataError: they are misshapen, a row has none, or one is not of the vocabulary.
    """
    ids = np.asarray(token_ids)
    mask = np.ones(ids.shape, bool) if token_mask is None else np.asarray(token_mask) > 0
    if ids.ndim != 2 or not ids.size or mask.shape != ids.shape:
        raise DataError(
            f"{name}: got ids of shape {ids.shape} with a mask of shape {mask.shape}, expected "
            "[B, T] for both, neither of them 0"
        )
    if not mask.any(1).all():
        raise DataError(
            f"{name}: row {int(mask.any(1).argmin())} has no token, expected at least one; start "
            "it with the tokenizer's first token"
        )
    wrong = mask & ((ids < 0) | (ids >= vocabulary))
    if wrong.any():
        raise DataError(
            f"{name}: got id {ids[wrong][0]}, expected 0 to {vocabulary - 1}, the model's "
            "vocabulary; use the tokenizer of the model"
        )
    return ids, mask


def check_positions(shape: Shape, prompt: int, max_new_tokens: int) -> None:
    """Raise ModelError where a prompt and what follows do not fit the table of positions."""
    needed = prompt + max_new_tokens - 1  # the last token is never read
    if shape.positions is not None and needed > shape.positions:
        raise ModelError(
            f"max_new_tokens: got {max_new_tokens} behind a prompt of {prompt} tokens, "
            f"expected at most {max(shape.positions - prompt + 1, 0)}: the model has "
            f"{shape.positions} positions; ask for fewer tokens or shorten the prompts"
        )


def left_padded(
    prompts_ids: ArrayLike, prompt_mask: ArrayLike | None, vocabulary: int, multiple: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the prompts `[B, P]` with their padding, zeros, on the left, and lengths `[B]`."""
    ids, mask = checked_ids("prompts", prompts_ids, prompt_mask, vocabulary)
    lengths = mask.sum(1).astype(np.int32)
    padded = np.zeros((len(ids), round_up(int(lengths.max()), multiple)), np.int32)
    for i, length in enumerate(lengths):
        padded[i, padded.shape[1] - length :] = ids[i, mask[i]]
    return padded, lengths


def round_up(length: int, multiple: int) -> int:
    """Return the smallest multiple that is not below `length`."""
    return -(-length // multiple) * multiple
