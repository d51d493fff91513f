"""What a teacher has said is dealt out with the batches, and read as its codec keeps it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.setups import text_split

from jaxdistill.config.schema import DataConfig
from jaxdistill.data.batching.batch_source import train_batches
from jaxdistill.data.batching.draws import WHOLE, Part
from jaxdistill.models.outputs import Head
from jaxdistill.parallel.mesh import make_mesh
from jaxdistill.parallel.sharding import parameter_shardings
from jaxdistill.teachers import targets
from jaxdistill.teachers.cache.codecs import Full, Hidden, Sampled, TopK, encode, token_keys

ROWS, CLASSES = 6, 4
HEAD = Head(jnp.arange(12.0).reshape(3, 4), jnp.arange(4.0))


@pytest.mark.parametrize("part", [WHOLE, Part((1,), 2)], ids=["whole", "half"])
def test_logits_in_memory_follow_their_examples_through_epochs(part):
    """Also where a process makes its own rows of a batch alone."""
    split = text_split(40, 0)
    sums = np.add.reduceat(split.inputs.tokens, split.inputs.offsets[:-1])
    logits = np.stack([sums, split.lengths], 1).astype(np.float32)
    config = DataConfig(train=("unread",), buckets=2)
    source = train_batches(split, batch_size=8, seed=3, config=config).only(part)
    source = targets.with_targets(source, targets.in_memory(logits))
    seen = []
    for step in range(2 * len(source)):
        batch = source[step]
        mask = batch["attention_mask"]
        expected = np.stack([(batch["input_ids"] * mask).sum(1), mask.sum(1)], 1)
        real = batch["weight"] > 0
        np.testing.assert_array_equal(batch["teacher_logits"][real], expected[real])
        seen += batch["teacher_logits"][real].tolist()
    if part is WHOLE:
        assert sorted(seen) == sorted(2 * logits.tolist())


@pytest.mark.parametrize("codec", [Full(), TopK(CLASSES, 2.0), Sampled(CLASSES)])
def test_stored_outputs_are_read_from_the_batch(codec):
    logits = np.random.default_rng(0).normal(size=(ROWS, CLASSES)).astype(np.float32)
    fields = encode(codec, logits, token_keys(0, np.arange(ROWS), np.zeros(ROWS)))
    batch = {f"teacher_{name}": field for name, field in fields.items()}
    teacher = targets.stored(targets.Stored(codec, CLASSES))
    found = teacher.apply(teacher.params, {**batch, "labels": np.zeros(ROWS)}, train=False, taps=())
    if isinstance(codec, Full):
        np.testing.assert_allclose(
            jax.nn.softmax(found.logits), jax.nn.softmax(logits), rtol=2e-3, atol=1e-4
        )
    else:
        assert found.logits is None
        assert all(len(field) == ROWS for field in found.features.values())
    assert (teacher.codec, teacher.config) == (codec, None)
    assert not jax.tree.leaves(teacher.params)


def test_hidden_states_come_with_the_head_that_is_given():
    known = targets.Stored(Hidden("float32"), 3, HEAD)
    teacher = targets.stored(known)
    hidden = np.arange(6.0, dtype=np.float32).reshape(2, 3)
    fields = encode(known.codec, hidden)
    batch = {f"teacher_{name}": field for name, field in fields.items()}
    assert teacher.params is HEAD
    moved = jax.tree.map(lambda leaf: leaf + 1, teacher.params)
    for params in (teacher.params, moved):
        found = teacher.apply(params, batch)
        np.testing.assert_allclose(found.hidden, hidden, rtol=1e-6)
        assert found.head() is params
    assert (known.classes, targets.Stored(Full(), 3).classes) == (4, 3)


def test_the_columns_of_a_head_are_shared_over_tensor():
    mesh = make_mesh(1, tensor=2, devices=jax.devices()[:2])
    for head in (HEAD, Head(HEAD.weights)):
        teacher = targets.stored(targets.Stored(Hidden("float32"), 3, head))
        of = parameter_shardings(teacher.params, teacher.axes, mesh)
        assert of.weights.shard_shape((3, 4)) == (3, 2)
        assert head.bias is None or of.bias.shard_shape((4,)) == (2,)
