"""Tiny random checkpoints written by transformers, and comparisons with it on PyTorch."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.files.model_folder import Stored
from jaxdistill.models.family import Apply, Model
from jaxdistill.models.hub.convert import import_tensors
from jaxdistill.models.hub.rules import flatten
from jaxdistill.models.registry import family_named, load_model, save_model

DEPTH = 3
BERT = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 24,
}
LLAMA = {
    **{name: value for name, value in BERT.items() if name != "max_position_embeddings"},
    "num_key_value_heads": 2,
}
GEMMA = {
    **LLAMA,
    "head_dim": 12,
    "sliding_window": 4,
    "query_pre_attn_scalar": 20,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}
FIELDS: dict[str, dict[str, Any]] = {
    "bert": BERT,
    "roberta": {**BERT, "type_vocab_size": 1},
    "xlm-roberta": {**BERT, "type_vocab_size": 1},
    "distilbert": {
        "vocab_size": 99,
        "dim": 32,
        "n_layers": DEPTH,
        "n_heads": 4,
        "hidden_dim": 48,
        "max_position_embeddings": 24,
    },
    "mobilebert": {
        **BERT,
        "embedding_size": 16,
        "intra_bottleneck_size": 16,
        "num_feedforward_networks": 3,
    },
    "gpt2": {"vocab_size": 99, "n_embd": 32, "n_layer": DEPTH, "n_head": 4, "n_positions": 24},
    "llama": LLAMA,
    "qwen2": {**LLAMA, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
    "qwen3": {**LLAMA, "head_dim": 12},
    "gemma2": GEMMA,
    "gemma3_text": {**GEMMA, "rope_local_base_freq": 100.0, "rope_theta": 5000.0},
}


def spec(family: str, **fields: Any) -> dict[str, Any]:
    """The spec of the same tiny model for `build_model`."""
    return {"family": family, **FIELDS[family], **fields}


def reference(family: str, head: str | None, folder: Path, *, seed: int = 0, **fields: Any) -> Any:
    """Write a random checkpoint to `folder` and return its model on PyTorch, in evaluation mode.

    Every parameter is perturbed, biases and norms too: at their usual start a swapped or missing
    one would go unnoticed.
    """
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.for_model(family, **FIELDS[family] | fields)
    kind = {
        "classification": transformers.AutoModelForSequenceClassification,
        "masked_lm": transformers.AutoModelForMaskedLM,
        "lm": transformers.AutoModelForCausalLM,
        None: transformers.AutoModel,
    }[head]
    torch.manual_seed(seed)
    model = kind.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    return model


def text_batch(pad: int, *, rows: int = 3, length: int = 9, types: int = 1) -> dict[str, Any]:
    """Rows of random tokens, the second and third padded on the right."""
    random = np.random.default_rng(0)
    mask = np.ones((rows, length), np.int32)
    mask[1, length // 2 :] = 0
    mask[2, length - 1 :] = 0
    ids = np.where(mask > 0, random.integers(5, 99, (rows, length)), pad).astype(np.int32)
    batch = {"input_ids": ids, "attention_mask": mask}
    if types > 1:
        batch["token_type_ids"] = random.integers(0, types, (rows, length)).astype(np.int32)
    return batch


def all_taps(depth: int = DEPTH) -> tuple[str, ...]:
    """Every tap of a text model but `pooled`."""
    kinds = ("hidden", "attention")
    return ("embeddings", *(f"layers.{i}.{kind}" for i in range(depth) for kind in kinds))


def compiled(function: Any) -> Any:
    """Jit without the backend's optimizations: these tests spend their time on compiling."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


@functools.lru_cache(maxsize=4)
def _program(apply: Apply, taps: tuple[str, ...], train: bool) -> Any:
    return compiled(
        lambda params, batch, rng: apply(params, batch, taps=taps, train=train, rng=rng)
    )


def run(
    model: Model,
    batch: dict[str, Any],
    taps: tuple[str, ...] = (),
    *,
    rng: jax.Array | None = None,
    train: bool = False,
) -> Any:
    """Run a model under jit: one program for all batches of the same shapes."""
    arrays = {name: jnp.asarray(value) for name, value in batch.items()}
    return _program(model.apply, taps, train)(model.params, arrays, rng)


def run_torch(model: Any, batch: dict[str, Any], **options: Any) -> Any:
    """Run a PyTorch model on the same batch."""
    import torch

    tensors = {name: torch.tensor(value).long() for name, value in batch.items()}
    return model(**tensors, **options)


def check_outputs(model: Model, theirs: Any, batch: dict[str, Any], tolerance: float) -> None:
    """Compare logits, every hidden state and every attention map, padding included."""
    import torch

    assert model.options is not None
    depth = model.config.num_hidden_layers
    with torch.no_grad():
        expected = run_torch(theirs, batch, output_hidden_states=True, output_attentions=True)
    got = run(model, batch, all_taps(depth))
    pairs = [(got.features["embeddings"], expected.hidden_states[0])]
    for i in range(depth):
        pairs.append((got.features[f"layers.{i}.hidden"], expected.hidden_states[i + 1]))
        pairs.append((got.features[f"layers.{i}.attention"], expected.attentions[i]))
    if model.options.head is None:
        pairs.append((got.hidden, expected.last_hidden_state))
    else:
        assert got.logits.dtype == jnp.float32
        # Without taps the last layer computes the pooled tokens only.
        pairs += [(got.logits, expected.logits), (run(model, batch).logits, expected.logits)]
        head = got.head()
        pairs.append(
            (
                got.hidden @ head.weights + jnp.broadcast_to(head.bias, got.logits.shape),
                expected.logits,
            )
        )
    for ours, reference in pairs:
        np.testing.assert_allclose(ours, reference.numpy(), rtol=0, atol=tolerance)


def check_gradients(model: Model, theirs: Any, batch: dict[str, Any], tolerance: float) -> None:
    """Compare the gradient of a weighted sum of valid logits for every parameter."""
    import torch

    outputs = run_torch(theirs, batch)
    random = np.random.default_rng(1)
    factors = random.normal(size=tuple(outputs.logits.shape)).astype(np.float32)
    if factors.ndim == 3:
        factors *= batch["attention_mask"][..., None]
    (outputs.logits * torch.tensor(factors)).sum().backward()
    gradients = {
        name: parameter.grad.numpy()
        for name, parameter in theirs.named_parameters()
        if parameter.grad is not None
    }
    missing = {n: np.zeros(tuple(p.shape), np.float32) for n, p in theirs.named_parameters()}
    expected = _as_ours(model, missing | gradients)
    arrays = {name: jnp.asarray(value) for name, value in batch.items()}

    def loss(params: Any) -> jax.Array:
        return (model.apply(params, arrays).logits * factors).sum()

    got = flatten({"params": compiled(jax.grad(loss))(model.params)})
    assert got.keys() == expected.keys()
    largest = max(np.abs(value).max() for value in expected.values())
    for path, value in expected.items():
        # A key's bias has no gradient in exact arithmetic: what is left of it is rounding.
        scale = max(np.abs(value).max(), 1e-3 * largest)
        error = np.abs(np.asarray(got[path]) - value).max() / scale
        assert error < tolerance, f"{path}: {error}"


def _as_ours(model: Model, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    class Memory:
        def get_tensor(self, name: str) -> np.ndarray:
            return tensors[name]

    assert model.family is not None
    assert model.options is not None
    stored = {n: Stored(Memory(), n, tuple(t.shape), "F32") for n, t in tensors.items()}
    arrays, _ = import_tensors(
        family_named(model.family),
        model.config,
        model.options,
        stored,
        flatten({"params": model.params}),
        where="gradients",
    )
    return arrays


def check_round_trip(folder: Path, target: Path, head: str | None, batch: dict[str, Any]) -> None:
    """Load, save, and load again, by us bitwise and by transformers to equal outputs."""
    import torch
    import transformers

    model = load_model(folder, head=head)
    save_model(target, model)
    again = load_model(target, head=head)
    assert again.initialized == ()
    for path, value in flatten(model.params).items():
        np.testing.assert_array_equal(value, flatten(again.params)[path], err_msg=path)
    kind = {
        "classification": transformers.AutoModelForSequenceClassification,
        "masked_lm": transformers.AutoModelForMaskedLM,
        "lm": transformers.AutoModelForCausalLM,
        None: transformers.AutoModel,
    }[head]
    theirs, info = kind.from_pretrained(target, output_loading_info=True)
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert theirs.dtype == torch.float32
    with torch.no_grad():
        expected = run_torch(theirs.eval(), batch)
    expected = expected.last_hidden_state if head is None else expected.logits
    got = run(again, batch)
    got = got.hidden if head is None else got.logits
    np.testing.assert_allclose(got, expected.numpy(), rtol=0, atol=1e-5)
