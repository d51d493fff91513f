"""The program of a step does not grow with depth; recomputed layers save memory, change nothing."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill import losses
from jaxdistill.models.registry import build_model

SIZES = {"vocab_size": 64, "hidden_size": 16, "num_attention_heads": 2}
SPECS = {
    "bert": {"family": "bert", "intermediate_size": 32, **SIZES},
    "gpt2": {"family": "gpt2", **SIZES},
    "llama": {"family": "llama", "intermediate_size": 32, **SIZES},
    "gemma3_text": {
        "family": "gemma3_text",
        "intermediate_size": 32,
        "num_key_value_heads": 1,
        "head_dim": 8,
        **SIZES,
    },
    "t5": {"family": "t5", "d_kv": 8, "d_ff": 32, **SIZES},
}


@pytest.fixture
def program_size(monkeypatch):
    """Count the operations of the lowered step, as the benchmark does."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "benchmarks"))
    import depth as benchmark

    def count(name, layers, **options):
        lowered, _ = benchmark.lowered_step(SPECS[name], layers, rows=4, length=8, **options)
        return lowered.as_text().count(" = ")

    return count


@pytest.mark.mostly_slow
@pytest.mark.parametrize("name", SPECS)
def test_the_program_of_a_step_does_not_grow_with_depth(program_size, name):
    assert program_size(name, 32) < 1.3 * program_size(name, 4)


@pytest.mark.slow
def test_without_a_scan_it_does_grow(program_size):
    sizes = [program_size("gpt2", layers, unroll=layers) for layers in (4, 16)]
    assert sizes[1] > 1.3 * sizes[0]


@pytest.mark.mostly_slow
@pytest.mark.parametrize("name", ["gpt2", "llama", "t5"])
def test_recomputing_layers_saves_memory_and_changes_no_gradient(name):
    sizes = SPECS[name] | {"num_hidden_layers": 6}
    ids = jnp.asarray(np.random.default_rng(0).integers(0, 64, (4, 64)), jnp.int32)
    batch = {"input_ids": ids, "labels": ids}

    def measured(remat):
        model = build_model(sizes, remat=remat)

        def loss(params):
            outputs = model.apply(params, batch, rng=jax.random.key(1), train=True)
            assert outputs.logits is not None
            return losses.cross_entropy(outputs.logits, batch["labels"]).mean()

        compiled = jax.jit(jax.grad(loss)).lower(model.params).compile()
        memory = compiled.memory_analysis()
        assert memory is not None
        return compiled(model.params), memory.temp_size_in_bytes

    (plain, more), (again, less) = measured(False), measured(True)
    assert less < 0.6 * more
    largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(plain))
    for expected, got in zip(jax.tree.leaves(plain), jax.tree.leaves(again), strict=True):
        # A key's bias has no gradient in exact arithmetic: what is left of it is rounding.
        scale = max(float(np.abs(expected).max()), 1e-3 * largest)
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5 * scale)
