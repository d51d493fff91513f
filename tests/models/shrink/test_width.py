"""Students narrower than their teacher."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from models import decoders, parity

from jaxdistill.errors import DataError, ModelError
from jaxdistill.models.hub.rules import flatten, unflatten
from jaxdistill.models.registry import build_model, load_model, save_model
from jaxdistill.models.shrink.importance import Importance, measure_importance
from jaxdistill.models.shrink.layers import student_from_teacher
from jaxdistill.models.shrink.width import most_important, narrow_student
from jaxdistill.parallel.mesh import make_mesh

# Rows of one length, so that one program serves all.
BATCHES = [decoders.padded("right"), decoders.padded("left")]


def flat_importance(model, hidden=None):
    """An importance that leaves nothing to choose but what a test says."""
    shape = model.config.shape
    return Importance(
        heads=np.ones((shape.depth, shape.key_heads)),
        mlp=np.ones((shape.depth, shape.inner)),
        hidden=np.ones(shape.width) if hidden is None else hidden,
        energy={"norm": np.ones(shape.width)}
        | {
            f"layers/{name}": np.ones((shape.depth, shape.width))
            for name in model.params["layers"]
            if name.endswith("_norm")
        },
        tokens=1,
    )


def changed(model, change):
    """Return the model with its parameters, by path, changed in place."""
    leaves = {path: np.array(leaf) for path, leaf in flatten(model.params).items()}
    change(leaves)
    arrays = {path: jnp.asarray(leaf) for path, leaf in leaves.items()}
    return dataclasses.replace(model, params=unflatten(model.params, arrays))


def logits(model, batch):
    return np.asarray(parity.run(model, batch).logits)[batch["attention_mask"] > 0]


@pytest.mark.slow
def test_importance_is_the_mean_absolute_activation_of_transformers(tmp_path):
    torch = pytest.importorskip("torch")
    theirs = parity.reference("llama", "lm", tmp_path)
    model = load_model(tmp_path)
    seen = {"mlp": [], "heads": [], "hidden": [], "squares": []}

    def hook(kind, part):
        return lambda _, inputs, output: seen[kind].append(
            (inputs[0] if part == "input" else output).detach().numpy()
        )

    for layer in theirs.model.layers:
        layer.mlp.down_proj.register_forward_hook(hook("mlp", "input"))
        layer.self_attn.o_proj.register_forward_hook(hook("heads", "input"))
        for norm in (layer.input_layernorm, layer.post_attention_layernorm):
            norm.register_forward_hook(hook("hidden", "output"))
        layer.post_attention_layernorm.register_forward_hook(hook("squares", "input"))
    theirs.model.norm.register_forward_hook(hook("hidden", "output"))
    batch = BATCHES[0]
    with torch.no_grad():
        parity.run_torch(theirs, batch)
    real = batch["attention_mask"] > 0
    means = {
        kind: np.stack([np.abs(np.float64(value[real])).mean(0) for value in values])
        for kind, values in seen.items()
        if kind != "squares"
    }
    got = measure_importance(model, [batch])
    assert got.tokens == real.sum()
    np.testing.assert_allclose(got.mlp, means["mlp"], rtol=1e-4)
    heads = means["heads"].reshape(3, 2, -1).mean(-1)  # two query heads to a key head, next to it
    np.testing.assert_allclose(got.heads, heads, rtol=1e-4)
    np.testing.assert_allclose(got.hidden, means["hidden"].mean(0), rtol=1e-4)
    squares = np.stack([np.square(np.float64(value[real])).mean(0) for value in seen["squares"]])
    np.testing.assert_allclose(got.energy["layers/mlp_norm"], squares, rtol=1e-4)
    twice = measure_importance(model, [batch, batch])
    assert twice.tokens == 2 * got.tokens
    np.testing.assert_allclose(twice.hidden, got.hidden)
    shared = measure_importance(model, [batch], mesh=make_mesh(2, fsdp=2, tensor=2))
    np.testing.assert_allclose(shared.heads, got.heads, rtol=1e-5)
    np.testing.assert_allclose(shared.hidden, got.hidden, rtol=1e-5)


def test_the_most_important_stay_in_their_order():
    random = np.random.default_rng(0)
    importance = random.normal(size=(3, 10))
    for row, got in zip(importance, most_important(importance, 4), strict=True):
        threshold = sorted(row, reverse=True)[3]
        np.testing.assert_array_equal(got, [i for i in range(10) if row[i] >= threshold])
    np.testing.assert_array_equal(most_important(np.ones(5), 2), [0, 1])


@pytest.mark.slow
def test_the_least_important_goes_first():
    teacher = build_model(parity.spec("llama", initializer_range=0.2))
    measured = measure_importance(teacher, BATCHES)
    student = narrow_student(teacher, measured, hidden_size=20, heads=2, mlp_size=30)
    old, new = flatten(teacher.params), flatten(student.params)
    hidden = np.sort(np.argsort(measured.hidden)[12:])
    for layer in range(3):
        mlp = np.sort(np.argsort(measured.mlp[layer])[18:])
        (group,) = np.argsort(measured.heads[layer])[1:]
        assert group == measured.heads[layer].argmax()
        for path, rows, columns in (
            ("up/kernel", hidden, mlp),
            ("down/kernel", mlp, hidden),
            ("attention/query/kernel", hidden, np.arange(16) + 16 * group),
            ("attention/value/kernel", hidden, np.arange(8) + 8 * group),
            ("attention/output/kernel", np.arange(16) + 16 * group, hidden),
        ):
            expected = old[f"layers/{path}"][layer][np.ix_(rows, columns)]
            np.testing.assert_array_equal(new[f"layers/{path}"][layer], expected, err_msg=path)
    np.testing.assert_array_equal(
        new["embeddings/word/table"], old["embeddings/word/table"][:, hidden]
    )
    np.testing.assert_array_equal(new["head/kernel"], old["head/kernel"][hidden])


@pytest.mark.mostly_slow
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "gemma3_text"])
def test_what_carries_nothing_leaves_without_a_trace(family):
    teacher = build_model(parity.spec(family, initializer_range=0.2))
    shape = teacher.config.shape
    silent = np.array([1, 4, 5, 8, 13, 21, 30])  # hidden channels

    def silence(leaves):
        random = np.random.default_rng(0)
        for path, leaf in leaves.items():
            if path.endswith("scale"):
                leaf += random.normal(size=leaf.shape, scale=0.1)
        leaves["embeddings/word/table"][:, silent] = 0
        for name in ("attention/output", "down"):
            leaves[f"layers/{name}/kernel"][..., silent] = 0
        for layer in range(shape.depth):  # other channels in each layer
            leaves["layers/up/kernel"][layer][:, layer + np.array([2, 3, 9])] = 0
            group = layer % shape.key_heads
            own = np.arange(shape.head_width) + shape.head_width * group
            leaves["layers/attention/value/kernel"][layer][:, own] = 0

    teacher = changed(teacher, silence)
    measured = measure_importance(teacher, BATCHES)
    student = narrow_student(
        teacher,
        measured,
        hidden_size=shape.width - len(silent),
        heads=shape.heads // 2,
        mlp_size=shape.inner - 3,
    )
    sizes = student.config.shape
    assert (sizes.width, sizes.heads, sizes.key_heads, sizes.inner) == (25, 2, 1, 45)
    expected = logits(teacher, BATCHES[0])
    assert expected.std() > 0.1
    np.testing.assert_allclose(logits(student, BATCHES[0]), expected, rtol=0, atol=2e-4)


@pytest.mark.slow
def test_silent_channels_of_gpt2_leave_without_a_trace():
    teacher = build_model(parity.spec("gpt2", initializer_range=0.2))

    def silence(leaves):
        leaves["layers/up/kernel"][..., 7:12] = 0
        leaves["layers/up/bias"][..., 7:12] = 0

    teacher = changed(teacher, silence)
    student = narrow_student(teacher, measure_importance(teacher, BATCHES), mlp_size=123)
    assert student.config.n_inner == 123
    np.testing.assert_allclose(
        logits(student, BATCHES[0]), logits(teacher, BATCHES[0]), rtol=0, atol=1e-5
    )


@pytest.mark.mostly_slow
@pytest.mark.parametrize(
    ("family", "sizes"),
    [
        ("gpt2", {"hidden_size": 16, "heads": 2, "mlp_size": 40}),
        ("llama", {"hidden_size": 20, "heads": 2}),
        ("qwen2", {"heads": 2, "mlp_size": 20}),
        ("gemma3_text", {"hidden_size": 24, "heads": 2, "mlp_size": 20}),
    ],
)
def test_a_saved_student_gives_the_same_logits_in_transformers(family, sizes, tmp_path):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    parity.reference(family, "lm", tmp_path / "teacher")
    teacher = load_model(tmp_path / "teacher")
    narrow = narrow_student(teacher, measure_importance(teacher, BATCHES), **sizes)
    student = student_from_teacher(narrow, [0, 2])
    save_model(tmp_path / "student", student)
    theirs, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "student", output_loading_info=True
    )
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    batch = decoders.whole()
    with torch.no_grad():
        expected = parity.run_torch(theirs.eval(), batch).logits.numpy()
    got = parity.run(student, batch).logits
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4)


def test_nothing_is_changed_where_nothing_is_cut():
    teacher = build_model(parity.spec("gemma2", initializer_range=0.2))
    same = narrow_student(teacher, flat_importance(teacher))
    for path, leaf in flatten(same.params).items():
        np.testing.assert_array_equal(leaf, flatten(teacher.params)[path], err_msg=path)


@pytest.mark.parametrize(
    ("family", "sizes", "message"),
    [
        ("llama", {"hidden_size": 33}, "student.hidden_size: got 33, expected 1 to 32"),
        ("llama", {"heads": 3}, "student.heads: got 3, expected 1 to 4, .* a multiple of 2"),
        ("llama", {"mlp_size": 0}, "student.mlp_size: got 0, expected 1 to 48"),
        ("gpt2", {"heads": 2}, "student.hidden_size: got 32 with 2 heads, expected 16"),
    ],
)
def test_sizes_that_cannot_be_are_named(family, sizes, message):
    teacher = build_model(parity.spec(family))
    with pytest.raises(ModelError, match=message):
        narrow_student(teacher, flat_importance(teacher), **sizes)


def test_other_models_and_empty_calibration_are_named():
    teacher = build_model(parity.spec("llama"))
    other = build_model(parity.spec("llama", num_hidden_layers=2))
    with pytest.raises(ModelError, match="importance: got shapes"):
        narrow_student(teacher, flat_importance(other), heads=2)
    with pytest.raises(DataError, match="got no token to measure the teacher on"):
        measure_importance(teacher, [])
    with pytest.raises(ModelError, match="family 'bert', expected a decoder"):
        measure_importance(build_model(parity.spec("bert"), num_labels=2), BATCHES)
