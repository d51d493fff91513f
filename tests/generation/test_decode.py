"""Generation against transformers on PyTorch, full forward passes and NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import parity
from models.writing import prompts, same

from jaxdistill.errors import ConfigError, DataError, ModelError
from jaxdistill.generation import decode as module
from jaxdistill.generation import writing
from jaxdistill.generation.decode import generate
from jaxdistill.generation.token_sampling import next_token
from jaxdistill.models.layers.stacking import unstack
from jaxdistill.models.registry import build_model, load_model

# Untied heads, so that the likeliest token is not mostly the last one again.
CASES = {
    "gpt2": ("gpt2", {"n_positions": 128, "tie_word_embeddings": False}),
    "llama": ("llama", {}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {}),
    "gemma2": (
        "gemma2",
        {"attn_logit_softcapping": 0.7, "final_logit_softcapping": 2.0}
        | {"tie_word_embeddings": False},
    ),
    # Windows of 4 tokens elsewhere; here one that is longer than every text.
    "gemma3": ("gemma3_text", {"tie_word_embeddings": False}),
    "gemma3, long window": (
        "gemma3_text",
        {"tie_word_embeddings": False, "sliding_window": 100},
    ),
}


@pytest.fixture(scope="module", params=CASES)
def pair(request, tmp_path_factory):
    """A random model on PyTorch, and ours of the same checkpoint."""
    family, fields = CASES[request.param]
    folder = tmp_path_factory.mktemp(family)
    theirs = parity.reference(family, "lm", folder, **fields)
    theirs.generation_config.eos_token_id = theirs.config.eos_token_id = None
    return theirs, load_model(folder)


@pytest.fixture(scope="module")
def model():
    return build_model(
        parity.spec("gpt2", n_positions=128, initializer_range=0.3, tie_word_embeddings=False)
    )


def joined(generated):
    """Prompts padded on the left, with what was written behind them, as a batch."""
    ids, mask = prompts()
    tokens = np.asarray(generated.tokens)
    return {
        "input_ids": np.concatenate([np.maximum(ids, 0), tokens], 1),
        "attention_mask": np.concatenate([mask, np.ones_like(tokens)], 1),
    }


def picked(logits, tokens):
    """Log-probabilities of the tokens that follow the prompts, in float64."""
    logits = np.asarray(logits, np.float64)[:, -tokens.shape[1] - 1 : -1]
    scores = logits - logits.max(-1, keepdims=True)
    scores -= np.log(np.exp(scores).sum(-1, keepdims=True))
    return np.take_along_axis(scores, np.asarray(tokens)[..., None], -1)[..., 0]


@pytest.mark.mostly_slow
def test_the_likeliest_tokens_are_those_of_transformers(pair):
    import torch

    theirs, model = pair
    ids, mask = prompts()
    with torch.no_grad():
        expected = theirs.generate(
            input_ids=torch.tensor(np.maximum(ids, 0)).long(),
            attention_mask=torch.tensor(mask).long(),
            do_sample=False,
            max_new_tokens=64,
            pad_token_id=0,
        ).numpy()[:, ids.shape[1] :]
    assert expected.shape == (3, 64)
    assert len(np.unique(expected)) > 10
    got = generate(model, ids, mask, max_new_tokens=64, temperature=0, multiple=16)
    np.testing.assert_array_equal(got.tokens, expected)
    np.testing.assert_array_equal(got.lengths, [64] * 3)
    batch = joined(got)
    batch["position_ids"] = np.maximum(batch["attention_mask"].cumsum(1) - 1, 0)
    with torch.no_grad():
        logits = parity.run_torch(theirs, batch).logits
    np.testing.assert_allclose(got.log_probabilities, picked(logits, got.tokens), rtol=0, atol=1e-4)


@pytest.mark.mostly_slow
def test_log_probabilities_are_those_of_a_full_pass_of_the_whole_softmax(pair):
    _, model = pair
    ids, mask = prompts("right")
    got = generate(
        model,
        ids,
        mask,
        max_new_tokens=40,
        temperature=3.0,
        top_k=90,
        top_p=0.95,
        rng=jax.random.key(0),
        multiple=16,
    )
    assert len(np.unique(got.tokens)) > 30
    expected = picked(parity.run(model, joined(got)).logits, got.tokens)
    np.testing.assert_allclose(got.log_probabilities, expected, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_a_row_ends_with_any_of_the_end_tokens(model):
    ids, mask = prompts()
    options = {"max_new_tokens": 24, "temperature": 0, "multiple": 8}
    whole = generate(model, ids, mask, **options)
    tokens = np.asarray(whole.tokens)
    ends = [int(tokens[0, 5]), int(tokens[1, 0])]
    got = generate(model, ids, mask, **options, eos_id=ends, pad_id=-7)
    lengths = []
    for row in tokens:
        found = np.flatnonzero(np.isin(row, ends))
        lengths.append(found[0] + 1 if len(found) else 24)
    assert lengths[1] == 1
    assert lengths[0] <= 6
    np.testing.assert_array_equal(got.lengths, lengths)
    real = np.arange(24)[None] < np.array(lengths)[:, None]
    np.testing.assert_array_equal(got.tokens, np.where(real, tokens, -7))
    np.testing.assert_array_equal(got.log_probabilities, np.where(real, whole.log_probabilities, 0))
    one = generate(model, ids, mask, **options, eos_id=ends[1])
    assert int(one.lengths[1]) == 1


@pytest.mark.parametrize(("ends", "steps"), [(None, 9), (range(99), 1)])
def test_writing_stops_when_every_row_has_ended(model, monkeypatch, ends, steps):
    taken = []

    def counted(*arguments, **options):
        jax.debug.callback(lambda: taken.append(1))
        return next_token(*arguments, **options)

    monkeypatch.setattr(writing, "next_token", counted)
    got = generate(model, *prompts(), max_new_tokens=9, temperature=0, multiple=13, eos_id=ends)
    jax.block_until_ready(got)
    jax.effects_barrier()
    assert len(taken) == steps
    assert got.tokens.shape == got.log_probabilities.shape == (3, 9)


@pytest.mark.slow
def test_one_program_serves_what_differs_in_numbers_only(monkeypatch):
    traces = []
    read = module.read_prompts
    monkeypatch.setattr(
        module, "read_prompts", lambda *arguments: traces.append(1) or read(*arguments)
    )
    models = [build_model(parity.spec("gpt2", n_head=2), seed=seed) for seed in (0, 1)]
    options = {"multiple": 8, "rng": jax.random.key(0)}
    texts = [prompts(lengths=lengths) for lengths in ((8, 2), (1, 3), (5, 5))]
    got = generate(models[0], *texts[0], max_new_tokens=8, top_p=0.9, **options)
    assert traces == [1]
    generate(models[1], *texts[0], max_new_tokens=3, top_p=0.9, **options)
    generate(models[0], *texts[1], max_new_tokens=8, top_p=0.5, eos_id=[], **options)
    generate(
        models[0], *texts[2], max_new_tokens=1, top_p=0.9, temperature=0.3, pad_id=9, **options
    )
    same(generate(models[0], *texts[0], max_new_tokens=8, top_p=0.9, **options), got)
    assert traces == [1]
    generate(models[0], *prompts(lengths=(9, 2)), max_new_tokens=8, top_p=0.9, **options)
    assert traces == [1, 1]


@pytest.mark.slow
def test_neither_padding_nor_other_rows_nor_layout_change_a_row(model):
    options = {"max_new_tokens": 12, "rng": jax.random.key(3), "top_k": 50, "temperature": 1.3}
    ids, mask = prompts()
    expected = generate(model, ids, mask, **options, multiple=1)
    same(generate(model, *prompts("right"), **options, multiple=16), expected)
    apart = dataclasses.replace(model, params=unstack(model.params, model.axes))
    same(generate(apart, ids, mask, **options, multiple=16), expected)
    holes = [np.insert(array, 9, value, axis=1) for array, value in ((ids, 5), (mask, 0))]
    same(generate(model, *holes, **options, multiple=16), expected)
    shorter = [array[:, -4:] for array in (ids, mask)]  # cuts the first row's prompt only
    alone = generate(model, *shorter, **options, multiple=16)
    np.testing.assert_array_equal(alone.tokens[1:], expected.tokens[1:])
    whole = generate(model, ids[:1], max_new_tokens=12, temperature=0)
    same(whole, generate(model, ids[:1], mask[:1], max_new_tokens=12, temperature=0))


def test_a_key_decides_what_is_drawn(model):
    def draw(seed):
        return generate(
            model, *prompts(), max_new_tokens=12, rng=jax.random.key(seed), multiple=16
        ).tokens

    np.testing.assert_array_equal(draw(0), draw(0))
    assert (np.asarray(draw(0)) != np.asarray(draw(1))).mean() > 0.5
    assert (np.asarray(draw(0))[:, 1:] != np.asarray(draw(0))[:, :-1]).mean() > 0.5


@pytest.mark.slow
def test_half_precision_writes_with_a_cache_in_half_precision():
    exact, half = (
        build_model(parity.spec("gemma2", initializer_range=0.2), dtype=dtype, logits=False)
        for dtype in ("float32", "bfloat16")
    )
    one, other = (
        generate(each, *prompts(), max_new_tokens=2, temperature=0, multiple=8)
        for each in (exact, half)
    )
    assert other.log_probabilities.dtype == jnp.float32
    difference = np.abs(np.asarray(one.log_probabilities - other.log_probabilities))[:, 0]
    assert 0 < difference.max() < 0.1


@pytest.mark.slow
def test_padding_of_the_vocabulary_is_absent(model):
    options = {"max_new_tokens": 12, "multiple": 16, "vocabulary": 60}
    greedy = generate(model, *prompts(), temperature=0, **options)
    drawn = generate(model, *prompts(), rng=jax.random.key(0), temperature=4.0, **options)
    assert 40 < np.asarray(drawn.tokens).max() < 60
    logits = parity.run(model, joined(greedy)).logits[..., :60]
    expected = picked(logits, greedy.tokens)
    np.testing.assert_allclose(greedy.log_probabilities, expected, rtol=0, atol=1e-4)
    likeliest = np.asarray(logits)[:, -13:-1].argmax(-1)
    np.testing.assert_array_equal(greedy.tokens, likeliest)


@pytest.mark.slow
def test_all_positions_can_be_used_and_no_more():
    model = build_model(parity.spec("gpt2"))  # of 24 positions
    ids, mask = prompts()
    got = generate(model, ids, mask, max_new_tokens=14, temperature=0)
    assert np.isfinite(got.log_probabilities).all()
    with pytest.raises(
        ModelError, match="got 15 behind a prompt of 11 tokens, expected at most 14"
    ):
        generate(model, ids, mask, max_new_tokens=15, temperature=0)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"max_new_tokens": 0}, ConfigError, "max_new_tokens: got 0"),
        ({"multiple": 0}, ConfigError, "multiple: got 0"),
        ({"temperature": -1.0}, ConfigError, "temperature: got -1.0"),
        ({"temperature": float("nan")}, ConfigError, "temperature: got nan"),
        ({"top_k": 0}, ConfigError, "top_k: got 0"),
        ({"vocabulary": 100}, ConfigError, "vocabulary: got 100, expected 1 to 99"),
        ({"top_p": 0.0}, ConfigError, "top_p: got 0.0"),
        ({"top_p": 1.5}, ConfigError, "top_p: got 1.5"),
        ({"rng": None}, ConfigError, "rng: got None at temperature 1.0"),
        ({"prompts_ids": np.array([1, 2])}, DataError, r"shape \(2,\)"),
        ({"prompts_ids": np.zeros((2, 0), int)}, DataError, "neither of them 0"),
        ({"prompt_mask": np.ones((1, 3))}, DataError, r"mask of shape \(1, 3\)"),
        ({"prompt_mask": np.array([[1, 1], [0, 0]])}, DataError, "row 1 has no token"),
        ({"prompts_ids": np.array([[1, 99]])}, DataError, "got id 99, expected 0 to 98"),
        ({"prompts_ids": np.array([[-1, 9]])}, DataError, "got id -1"),
    ],
)
def test_mistakes_are_named(model, options, error, message):
    plain = {"max_new_tokens": 4, "rng": jax.random.key(0), "prompt_mask": None}
    plain["prompts_ids"] = np.array([[5, 6], [7, 8]])
    with pytest.raises(error, match=message):
        generate(model, **plain | options)


@pytest.mark.parametrize(
    ("family", "head"), [("gpt2", None), ("bert", "masked_lm"), ("bert", "classification")]
)
def test_a_model_that_cannot_write_is_named(family, head):
    model = build_model(parity.spec(family), head=head, num_labels=2)
    with pytest.raises(ModelError, match=f"got family '{family}' with head {head!r}"):
        generate(model, np.array([[5]]), max_new_tokens=1, temperature=0)
