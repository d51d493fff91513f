"""Batches that a model goes on with, against a plain search for prompts, `generate` and a pass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import parity

from jaxdistill.errors import ConfigError, DataError, ModelError
from jaxdistill.generation.decode import generate
from jaxdistill.generation.rollout import make_continue
from jaxdistill.models.registry import build_model

LENGTH, PROMPT = 14, 4


@pytest.fixture(scope="module")
def model():
    return build_model(
        parity.spec("gpt2", n_positions=32, initializer_range=0.3, tie_word_embeddings=False)
    )


def batch(texts, *, side="right"):
    """Rows of `(tokens, targets)` per text, packed behind one another; -1 stands for padding."""
    names = ("input_ids", "attention_mask", "segment_ids", "position_ids", "labels", "loss_mask")
    arrays = {name: np.zeros((len(texts), LENGTH), np.int32) for name in names}
    arrays["labels"] -= 1
    arrays["loss_mask"] = arrays["loss_mask"].astype(np.float32)
    arrays["weight"] = np.ones((len(texts),), np.float32)
    for row, parts in enumerate(texts):
        column = 0 if side == "right" else LENGTH - sum(len(tokens) for tokens, _ in parts)
        for segment, (tokens, first) in enumerate(parts, start=1):
            span = slice(column, column + len(tokens))
            arrays["input_ids"][row, span] = tokens
            arrays["attention_mask"][row, span] = 1
            arrays["segment_ids"][row, span] = segment
            arrays["position_ids"][row, span] = np.arange(len(tokens))
            predicting = slice(column + first - 1, column + len(tokens) - 1)
            arrays["loss_mask"][row, predicting] = 1
            arrays["labels"][row, predicting] = tokens[first:]
            column += len(tokens)
    return arrays


def words(count, start):
    return list(range(start, start + count))


# Tokens, the first target of each text, and the prompt that is expected.
TEXTS = [
    ([(words(9, 10), 1)], words(4, 10)),  # plain text: its first four
    ([(words(9, 20), 3)], words(3, 20)),  # an answer behind three tokens
    ([(words(10, 30), 7)], words(4, 33)),  # a long question: its end
    ([(words(5, 40), 2), (words(6, 50), 1)], words(2, 40)),  # packed: of the first text
    ([(words(3, 60), 1), (words(6, 70), 1)], words(2, 60)),  # a short text: all but its last
]


@pytest.mark.mostly_slow
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("named", ["loss_mask", "labels"])
def test_prompts_are_found_and_continued_as_generate_does(model, side, named):
    data = batch([parts for parts, _ in TEXTS], side=side)
    data.pop("labels" if named == "loss_mask" else "loss_mask")
    settings = {"temperature": 1.5, "top_k": 60, "eos_id": [11, 29]}
    rng = jax.random.key(5)
    got = jax.jit(make_continue(model, prompt_tokens=PROMPT, pad_id=3, **settings))(
        model.params, data, rng
    )
    assert {name: (leaf.shape, leaf.dtype) for name, leaf in got.items()} == {
        name: (leaf.shape, leaf.dtype) for name, leaf in data.items()
    }
    prompts = [prompt for _, prompt in TEXTS]
    ids, mask = np.zeros((2, len(TEXTS), PROMPT), np.int32)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)], mask[row, : len(prompt)] = prompt, 1
    written = generate(model, ids, mask, max_new_tokens=LENGTH - PROMPT, rng=rng, **settings)
    assert len(set(np.asarray(written.lengths))) > 1
    for row, prompt in enumerate(prompts):
        text = [*prompt, *np.asarray(written.tokens[row, : written.lengths[row]])]
        start, end = PROMPT - len(prompt), PROMPT + int(written.lengths[row])
        real = np.arange(LENGTH)
        real = (real >= start) & (real < end)
        np.testing.assert_array_equal(got["input_ids"][row, start:end], text)
        np.testing.assert_array_equal(got["input_ids"][row, ~real], 3)
        np.testing.assert_array_equal(got["attention_mask"][row], real)
        np.testing.assert_array_equal(got["segment_ids"][row], real)
        np.testing.assert_array_equal(got["position_ids"][row, start:end], range(len(text)))
        predicts = np.zeros(LENGTH)
        predicts[PROMPT - 1 : end - 1] = 1
        if named == "loss_mask":
            np.testing.assert_array_equal(got["loss_mask"][row], predicts)
    if named == "labels":
        assert (np.asarray(got["labels"]) == -1).all()
    np.testing.assert_array_equal(got["weight"], data["weight"])


@pytest.mark.slow
def test_log_probabilities_of_the_samples_are_those_of_a_training_pass(model):
    data = batch([parts for parts, _ in TEXTS])
    rng = jax.random.key(1)
    new = jax.jit(make_continue(model, prompt_tokens=PROMPT, temperature=2.0))(
        model.params, data, rng
    )
    outputs = parity.run(model, {name: new[name] for name in ("input_ids", "attention_mask")})
    scores = jax.nn.log_softmax(outputs.logits)
    following = jnp.roll(new["input_ids"], -1, axis=1)[..., None]
    found = jnp.take_along_axis(scores, following, axis=2)[..., 0]
    ids = np.asarray(new["input_ids"])[:, :PROMPT]
    written = generate(
        model,
        ids,
        np.asarray(new["attention_mask"])[:, :PROMPT],
        max_new_tokens=LENGTH - PROMPT,
        temperature=2.0,
        rng=rng,
    )
    counted = np.asarray(new["loss_mask"]) > 0
    assert counted.sum() == len(TEXTS) * (LENGTH - PROMPT)
    np.testing.assert_allclose(
        np.asarray(found)[counted], written.log_probabilities.reshape(-1), rtol=0, atol=1e-4
    )


@pytest.mark.slow
def test_rows_of_padding_stay_so_and_texts_can_be_short(model):
    data = batch([parts for parts, _ in TEXTS[:2]])
    for name in ("input_ids", "attention_mask", "segment_ids", "position_ids", "loss_mask"):
        data[name][1] = 0
    data["weight"][1] = 0
    continued = make_continue(model, prompt_tokens=PROMPT, max_new_tokens=5)
    got = jax.jit(continued)(model.params, data, jax.random.key(0))
    for name in ("attention_mask", "segment_ids", "loss_mask", "input_ids"):
        np.testing.assert_array_equal(np.asarray(got[name])[1], 0)
    assert got["attention_mask"][0].sum() == PROMPT + 5
    assert got["loss_mask"][0].sum() == 5
    assert all(np.isfinite(leaf).all() for leaf in got.values())


@pytest.mark.slow
def test_rows_that_do_not_count_still_do_not(model):
    data = batch([parts for parts, _ in TEXTS])
    data["weight"][:] = data["loss_mask"][2] = 0
    data["weight"][1] = 2
    got = jax.jit(make_continue(model, prompt_tokens=PROMPT))(model.params, data, jax.random.key(0))
    counted = np.asarray(got["loss_mask"]).sum(1)
    np.testing.assert_array_equal(counted, [0, 2 * (LENGTH - PROMPT), 0, 0, 0])


@pytest.mark.slow
def test_padding_of_the_vocabulary_is_never_written(model):
    data = batch([parts for parts, _ in TEXTS])
    continued = make_continue(model, prompt_tokens=PROMPT, vocabulary=80, temperature=9.0)
    got = np.asarray(jax.jit(continued)(model.params, data, jax.random.key(0))["input_ids"])
    assert 60 < got.max() < 80


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"prompt_tokens": 0}, ConfigError, "prompt_tokens: got 0"),
        ({"max_new_tokens": 0}, ConfigError, "max_new_tokens: got 0"),
        ({"temperature": -1.0}, ConfigError, "temperature: got -1.0"),
        ({"vocabulary": 100}, ConfigError, "vocabulary: got 100, expected 1 to 99"),
        ({"prompt_tokens": LENGTH}, ConfigError, "got 14 for rows of 14 tokens, expected fewer"),
    ],
)
def test_bad_numbers_are_named(model, options, error, message):
    data = batch([parts for parts, _ in TEXTS])
    with pytest.raises(error, match=message):
        make_continue(model, **{"prompt_tokens": PROMPT} | options)(
            model.params, data, jax.random.key(0)
        )


def test_batches_that_cannot_be_continued_are_named(model):
    continued = make_continue(model, prompt_tokens=PROMPT)
    data = batch([parts for parts, _ in TEXTS])
    for extra in ({"teacher_hidden": np.zeros((5, LENGTH, 8))}, {"weight": np.zeros((9,))}):
        with pytest.raises(DataError, match=f"got '{next(iter(extra))}' of shape"):
            continued(model.params, data | extra, jax.random.key(0))
    with pytest.raises(DataError, match="got no input_ids"):
        continued(model.params, {"images": np.zeros((2, 3))}, jax.random.key(0))
    short = build_model(parity.spec("gpt2", n_positions=12))
    with pytest.raises(ModelError, match="expected at most 9: the model has 12 positions"):
        make_continue(short, prompt_tokens=PROMPT)(short.params, data, jax.random.key(0))
