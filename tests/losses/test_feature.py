"""Feature losses against float64 references and PyTorch, masks, zeros, wrong versions."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxdistill import losses
from jaxdistill.errors import DataError, ModelError


def hidden(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def softmax(x: np.ndarray) -> np.ndarray:
    exponentials = np.exp(x - x.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def reference_relation(student, teacher, heads, where=None):
    """MiniLMv2 in loops: [B, T, D] and [B, T, D'] to [B, heads, T], float64."""
    batch, length = student.shape[:2]
    loss = np.zeros((batch, heads, length))
    for b in range(batch):
        for h in range(heads):
            logs = []
            for x in (teacher[b].astype(np.float64), student[b].astype(np.float64)):
                width = x.shape[-1] // heads
                part = x[:, h * width : (h + 1) * width]
                logs.append([[float(u @ v) / math.sqrt(width) for v in part] for u in part])
            for i in range(length):
                keys = [j for j in range(length) if where is None or where[b, i, j]]
                if not keys:
                    continue
                p, q = (softmax(np.array(rows[i])[keys]) for rows in logs)
                loss[b, h, i] = np.sum(p * np.log(p / q))
    return loss


# Checks that pass for the right loss and raise AssertionError for a wrong one.


def check_hidden_mse(loss: Callable) -> None:
    torch = pytest.importorskip("torch")
    for width in (4, 12):
        student, teacher = hidden(2, 3, width), hidden(2, 3, width, seed=1)
        expected = torch.nn.functional.mse_loss(
            torch.tensor(student), torch.tensor(teacher), reduction="none"
        ).mean(-1)
        np.testing.assert_allclose(loss(student, teacher), expected, rtol=1e-5)


def check_hidden_cosine(loss: Callable) -> None:
    torch = pytest.importorskip("torch")
    student, teacher = hidden(2, 3, 8), hidden(2, 3, 8, seed=1)
    expected = 1 - torch.cosine_similarity(torch.tensor(student), torch.tensor(teacher), -1)
    np.testing.assert_allclose(loss(student, teacher), expected, rtol=1e-5)


def check_attention_kl(loss: Callable) -> None:
    student, teacher = softmax(hidden(2, 3, 4, 4)), softmax(hidden(2, 3, 4, 4, seed=1))
    for keys in (4, 3):  # padded keys have no attention on either side
        s, t = (x[..., :keys] / x[..., :keys].sum(-1, keepdims=True) for x in (student, teacher))
        expected = np.sum(t * np.log(t / s), -1)
        s, t = (np.pad(x, ((0, 0),) * 3 + ((0, 4 - keys),)) for x in (s, t))
        np.testing.assert_allclose(loss(s, t), expected, rtol=1e-4, atol=1e-6)
        where = np.broadcast_to(np.arange(4) < keys, s.shape)
        np.testing.assert_allclose(loss(s, t, where=where), expected, rtol=1e-4, atol=1e-6)


def check_relation(loss: Callable) -> None:
    student, teacher = hidden(2, 5, 8), hidden(2, 5, 12, seed=1)
    tokens = np.arange(5) < np.array([5, 3])[:, None]  # [2, 5]
    pairs = np.random.default_rng(2).random((2, 5, 5)) < 0.7
    np.testing.assert_allclose(
        loss(student, teacher, heads=4), reference_relation(student, teacher, 4), rtol=1e-4
    )
    for where in (tokens, pairs):
        square = where if where.ndim == 3 else where[:, :, None] & where[:, None, :]
        expected = reference_relation(student, teacher, 2, square)
        got = loss(student, teacher, heads=2, where=where)
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-7)


CHECKS = {
    "hidden_mse": check_hidden_mse,
    "hidden_cosine": check_hidden_cosine,
    "attention_kl": check_attention_kl,
    "minilm_relation": check_relation,
}


@pytest.mark.parametrize("name", CHECKS)
def test_values(name):
    static = ("heads",) if name == "minilm_relation" else ()
    CHECKS[name](jax.jit(getattr(losses, name), static_argnames=static))


@pytest.mark.parametrize("name", ["hidden_mse", "attention_kl"])
def test_values_without_jit(name):
    CHECKS[name](getattr(losses, name))


def without_scale(student, teacher, *, heads, where=None):
    stretch = [math.sqrt(math.sqrt(x.shape[-1] / heads)) for x in (student, teacher)]
    return losses.minilm_relation(
        student * stretch[0], teacher * stretch[1], heads=heads, where=where
    )


def queries_only_masked(student, teacher, *, heads, where=None):
    if where is not None and where.ndim == 2:
        where = np.broadcast_to(where[:, :, None], (*where.shape, where.shape[1]))
    return losses.minilm_relation(student, teacher, heads=heads, where=where)


MUTANTS = {
    "mse summed over the width": (
        check_hidden_mse,
        lambda s, t: losses.hidden_mse(s, t) * s.shape[-1],
    ),
    "mse averaged over everything": (
        check_hidden_mse,
        lambda s, t: losses.hidden_mse(s, t).mean() + jnp.zeros(s.shape[:-1]),
    ),
    "cosine similarity as the loss": (
        check_hidden_cosine,
        lambda s, t: 1 - losses.hidden_cosine(s, t),
    ),
    "cosine not normalized": (check_hidden_cosine, lambda s, t: 1 - (s * t).sum(-1)),
    "attention swapped": (
        check_attention_kl,
        lambda s, t, where=None: losses.attention_kl(t, s, where=where),
    ),
    "attention mean over keys": (
        check_attention_kl,
        lambda s, t, where=None: losses.attention_kl(s, t, where=where) / s.shape[-1],
    ),
    "relation without its scale": (check_relation, without_scale),
    "relation with padded keys": (check_relation, queries_only_masked),
    "relation swapped": (check_relation, lambda s, t, **k: losses.minilm_relation(t, s, **k)),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_wrong_versions_are_caught(name):
    check, mutant = MUTANTS[name]
    with pytest.raises(AssertionError):
        check(mutant)


def test_hidden_mse_does_not_grow_with_the_width():
    narrow, wide = hidden(2, 3, 4), np.tile(hidden(2, 3, 4), 8)
    np.testing.assert_allclose(
        losses.hidden_mse(narrow, narrow + 1), losses.hidden_mse(wide, wide + 1), rtol=1e-5
    )


def test_cosine_of_zero_tiny_huge_and_nearly_equal_vectors():
    x, zero = hidden(6), np.zeros(6, np.float32)
    student = np.stack([x, zero, zero, x * 1e-30, x * 1e30, x, x])
    teacher = np.stack([zero, x, zero, x * 1e-30, x * 1e30, -x, x + 1e-4 * hidden(6, seed=1)])

    def total(student, teacher):
        values = losses.hidden_cosine(student, teacher)
        return values.sum(), values

    gradient, values = jax.jit(jax.grad(total, has_aux=True))(student, teacher)
    np.testing.assert_allclose(values[:6], [1, 1, 1, 0, 0, 2], atol=1e-6)
    a, b = student[6].astype(np.float64), teacher[6].astype(np.float64)
    exact = 1 - a @ b / math.sqrt((a @ a) * (b @ b))
    np.testing.assert_allclose(values[6], exact, rtol=1e-2)  # 1 - cos in float32 would be 0
    assert np.isfinite(gradient).all()
    assert not gradient[:3].any()


def test_attention_transfer():
    student, teacher = hidden(3, 4, 5, 6), hidden(3, 4, 5, 2, seed=1)
    maps = [(x.astype(np.float64) ** 2).sum(-1).reshape(3, -1) for x in (student, teacher)]
    unit = [x / np.linalg.norm(x, axis=-1, keepdims=True) for x in maps]
    got = jax.jit(losses.attention_transfer)(student, teacher)
    np.testing.assert_allclose(got, ((unit[0] - unit[1]) ** 2).sum(-1), rtol=1e-5)
    assert losses.attention_transfer(0 * student, teacher).tolist() == [2, 2, 2]
    with pytest.raises(ModelError, match=r"teacher_maps: .* expected \(3, 4, 5, 2\); .* positions"):
        losses.attention_transfer(student, teacher[:, :2])
    with pytest.raises(ModelError, match=r"student_maps: got shape \(3, 4\)"):
        losses.attention_transfer(hidden(3, 4), hidden(3, 4))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_underflowed_attention_stays_finite_through_the_softmax(dtype):
    scores = jnp.array([[0.0, -200.0, 1.0], [0.0, 1.0, 2.0]], dtype)
    teacher = jax.nn.softmax(jnp.array([[0.0, 3.0, 1.0], [-300.0, 1.0, 2.0]], dtype))

    def total(scores):
        values = losses.attention_kl(jax.nn.softmax(scores), teacher)
        return values.sum(), values

    gradient, values = jax.jit(jax.grad(total, has_aux=True))(scores)
    assert np.isfinite(values).all()
    assert values[0] > 1
    assert np.isfinite(np.asarray(gradient, np.float32)).all()


@pytest.mark.slow
def test_masked_junk_is_never_looked_at():
    where = np.zeros((1, 2, 4, 4), bool)
    where[..., :2, :3] = True
    clean = [softmax(hidden(1, 2, 4, 4, seed=seed)) for seed in (0, 1)]
    junk = [np.where(where, x, np.nan) for x in clean]
    expected = losses.attention_kl(*(np.where(where, x, 0) for x in clean), where=where)
    np.testing.assert_allclose(losses.attention_kl(*junk, where=where), expected, rtol=1e-6)
    assert (expected[..., 2:] == 0).all()
    total = jax.jit(jax.grad(lambda x: losses.attention_kl(x, junk[1], where=where).sum()))
    gradient = total(junk[0])
    assert np.isfinite(gradient).all()
    assert not gradient[~where].any()


@pytest.mark.slow
def test_gradients_by_finite_differences():
    with jax.enable_x64(True):
        x, y = (jnp.asarray(hidden(1, 4, 6, seed=seed), jnp.float64) for seed in (0, 1))

        @jax.jit
        def loss(x, y):
            where = jnp.arange(4)[None] < 3
            return (
                losses.hidden_mse(x, y),
                losses.hidden_cosine(x, y),
                losses.attention_transfer(x[..., None], y[..., None]),
                losses.attention_kl(jax.nn.softmax(x), jax.nn.softmax(y)),
                losses.minilm_relation(x, y, heads=2, where=where),
            )

        assert all(value.dtype == jnp.float64 for value in loss(x, y))
        check_grads(loss, (x, y), order=1, modes=["rev"], rtol=1e-5)


def test_low_precision_is_summed_in_float32():
    student, teacher = (jnp.asarray(hidden(2, 4, 512, seed=s), jnp.bfloat16) for s in (0, 1))
    exact = [np.asarray(x, np.float64) for x in (student, teacher)]
    got = losses.hidden_mse(student, teacher)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, ((exact[0] - exact[1]) ** 2).mean(-1), rtol=1e-5)
    relation = losses.minilm_relation(student, teacher, heads=4)
    np.testing.assert_allclose(
        relation, reference_relation(exact[0], exact[1], 4), rtol=1e-3, atol=1e-6
    )


def test_wrong_shapes_are_named():
    with pytest.raises(ModelError, match=r"widths differ .*project the student"):
        losses.hidden_mse(hidden(2, 3, 4), hidden(2, 3, 8))
    with pytest.raises(ModelError, match="rows and tokens must agree"):
        losses.hidden_cosine(hidden(2, 3, 4), hidden(1, 3, 4))
    with pytest.raises(ModelError, match=r"teacher_probabilities: .* minilm_relation"):
        losses.attention_kl(hidden(1, 2, 3, 3), hidden(1, 4, 3, 3))
    with pytest.raises(ModelError, match="heads that divide both widths"):
        losses.minilm_relation(hidden(1, 3, 8), hidden(1, 3, 10), heads=4)
    with pytest.raises(ModelError, match="batch and length must agree"):
        losses.minilm_relation(hidden(1, 3, 8), hidden(1, 4, 8), heads=4)
    with pytest.raises(DataError, match=r"where: got shape \(1, 4\), expected \(1, 3\)"):
        losses.minilm_relation(
            hidden(1, 3, 8), hidden(1, 3, 8), heads=4, where=np.ones((1, 4), bool)
        )
