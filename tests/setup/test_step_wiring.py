"""What a configuration says of the step arrives in the step that a stage is assembled from."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

from jaxdistill.config.load import check
from jaxdistill.engine.mean import Mean
from jaxdistill.methods import registry
from jaxdistill.methods.method import Method
from jaxdistill.models.registry import Model, build_model
from jaxdistill.parallel.mesh import mesh_of
from jaxdistill.setup.assembly import Assembly, assemble
from jaxdistill.setup.facts import Facts
from jaxdistill.setup.resolve import Setup, resolve
from jaxdistill.teachers.cache.codecs import Full, Sampled, TopK, encode, token_keys
from jaxdistill.teachers.targets import Stored

ROWS, FEATURES, CLASSES, LENGTH, STEPS = 8, 6, 3, 8, 4
MLP = {"family": "mlp", "hidden_sizes": [5], "num_features": FEATURES, "hidden_dropout_prob": 0.0}
GPT2 = {
    "family": "gpt2",
    "n_embd": 8,
    "n_layer": 1,
    "n_head": 2,
    "n_positions": LENGTH,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
    "initializer_range": 0.3,
}
FALLING = {"start": 1.0, "end": 0.0, "over": 1.0}
RISING = {"start": 0.0, "end": 1.0, "over": 1.0}


def parts_of(
    student: Model,
    teacher: Model,
    facts: Facts | None = None,
    /,
    *,
    devices: int = 1,
    **sections: Any,
) -> tuple[Setup, Assembly]:
    """Return what a distillation is made of and its step, on the first devices."""
    models = {"teacher": {"model": MLP}, "student": {"model": MLP}}
    config = check({"data": {"train": "unread"}, **models, **sections})
    facts = Facts() if facts is None else facts
    setup = resolve(config, config.train, facts, student, teacher, total_steps=STEPS)
    return setup, assemble(setup, mesh_of(config.parallel.sizes, jax.devices()[:devices]))


def assembled(*models: Any, **sections: Any) -> tuple[Assembly, Any, Any]:
    """Return the step of a distillation, its first state, and what it reads beside it."""
    setup, made = parts_of(*models, **sections)
    state, frozen = made.start(setup.student, seed=0)
    assert setup.teacher is not None
    return made, state, dataclasses.replace(frozen, teachers={"teacher": setup.teacher.params})


def perceptrons() -> tuple[Model, Model]:
    return build_model(MLP, seed=0, num_labels=CLASSES), build_model(
        MLP, seed=1, num_labels=CLASSES
    )


def numbers() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        "features": random.normal(size=(ROWS, FEATURES)).astype(np.float32),
        "labels": random.integers(0, CLASSES, ROWS).astype(np.int32),
        "weight": np.ones(ROWS, np.float32),
    }


@pytest.mark.parametrize("accumulate", [1, 4])
def test_the_student_sees_a_batch_in_as_many_parts_as_are_accumulated(accumulate):
    student, teacher = perceptrons()
    rows = set()

    def watched(params: Any, batch: Any, **options: Any) -> Any:
        rows.add(batch["features"].shape[0])
        return student.apply(params, batch, **options)

    seen = dataclasses.replace(student, apply=watched)
    made, *arguments = assembled(seen, teacher, train={"accumulate": accumulate})
    jax.eval_shape(made.step, *arguments, numbers())
    assert rows == {ROWS // accumulate}


def test_the_schedule_of_a_term_ends_with_the_stage():
    terms = {"soft": {"loss": "forward_kl", "weight": FALLING}}
    made, state, frozen = assembled(*perceptrons(), objective=terms)
    step, batch, ratios = jax.jit(made.step), numbers(), []
    for done in range(STEPS + 1):
        _, metrics = step(dataclasses.replace(state, step=np.int32(done)), frozen, batch)
        ratios.append(float(metrics["loss"].value() / metrics["soft"].value()))
    np.testing.assert_allclose(ratios, 1 - np.arange(STEPS + 1) / STEPS, atol=1e-6)


def test_a_stage_trains_with_its_own_settings():
    """A fine-tune's, not those of the distillation beside it."""
    models = {"teacher": {"model": MLP}, "student": {"model": MLP}}
    config = check({"data": {"train": "unread"}, **models, "train": {"accumulate": 2}})
    plain = {"optimizer": "sgd", "warmup": 0, "schedule": "constant", "clip_norm": None}
    own = {**plain, "learning_rate": 0.5, "weight_decay": 0, "accumulate": 1, "ema": 0.75}
    train = config.train.model_copy(update=own)
    student, _ = perceptrons()
    setup = resolve(config, train, Facts(), student, None, total_steps=STEPS)
    made = assemble(setup, mesh_of(config.parallel.sizes, jax.devices()[:1]))
    state, frozen = made.start(student, seed=0)
    after, metrics = jax.jit(made.step)(state, frozen, numbers())
    moved = jax.tree.map(lambda a, b: np.asarray(a - b), after.params, state.params)
    norm = np.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(moved)))
    np.testing.assert_allclose(norm, 0.5 * metrics["gradient_norm"].value(), rtol=1e-5)
    averaged = jax.tree.map(lambda a, b: np.asarray(a - b), after.ema, state.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b / 4, atol=1e-6), averaged, moved)


def speakers(ours: int, theirs: int, *, logits: bool) -> tuple[Model, Model]:
    """Return two language models whose heads have so many columns."""
    student, teacher = (
        build_model({**GPT2, "vocab_size": columns}, seed=columns, head="lm", logits=logits)
        for columns in (ours, theirs)
    )
    return student, teacher


def texts(vocabulary: int) -> dict[str, np.ndarray]:
    ids = np.random.default_rng(0).integers(1, vocabulary, (ROWS, LENGTH)).astype(np.int32)
    mask = np.ones((ROWS, LENGTH), np.float32)
    mask[:, -1] = 0
    batch = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    return {**batch, "labels": np.roll(ids, -1, 1), "loss_mask": mask}


def softened(logits: np.ndarray) -> np.ndarray:
    """Return log-probabilities in float64."""
    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


@pytest.mark.mostly_slow
@pytest.mark.parametrize("losses", ["fused", "dense"])
def test_columns_that_only_pad_a_head_take_no_part(losses):
    """Both heads are wider than the vocabulary, by different numbers of columns."""
    real = 20
    models = speakers(24, 32, logits=losses == "dense")
    made, state, frozen = assembled(
        *models,
        Facts(vocabulary=real),
        task="language_model",
        losses=losses,
        objective={"soft": {"loss": "forward_kl"}},
    )
    batch = texts(real)
    _, metrics = jax.jit(made.step)(state, frozen, batch)
    ours, theirs = (
        softened(model.apply(model.params, batch).logits[..., :real])
        for model in speakers(24, 32, logits=True)
    )
    values = (np.exp(theirs) * (theirs - ours)).sum(-1)
    expected = np.average(values, weights=batch["loss_mask"])
    np.testing.assert_allclose(metrics["soft"].value(), expected, rtol=1e-5)


@pytest.mark.slow
def test_the_students_share_of_the_texts_rises_until_the_stage_ends():
    made, state, frozen = assembled(
        *speakers(24, 24, logits=False),
        Facts(ends=(0,)),
        task="language_model",
        objective={"soft": {"loss": "forward_kl"}},
        on_policy={"prompt_tokens": 2, "share": RISING},
    )
    step, batch = jax.jit(made.step), texts(24)

    def written(done: int) -> list[float]:
        """Return whether the student wrote the batch of a step, for several seeds."""
        found = []
        for seed in range(12):
            given = dataclasses.replace(state, step=np.int32(done), rng=jax.random.key(seed))
            found.append(float(step(given, frozen, batch)[1]["on_policy"].value()))
        return found

    assert set(written(0)) == {0.0}
    assert set(written(STEPS // 2)) == {0.0, 1.0}
    assert set(written(STEPS)) == {1.0}


@pytest.mark.parametrize("share", ["parameters", "optimizer"])
def test_what_is_frozen_lies_where_it_would_be_trained(share):
    """Vocabularies over `tensor`, and the rest of a parameter over `fsdp` where it is shared."""
    layout = {"data": 1, "fsdp": 2, "tensor": 2, "share": share}
    more = {"task": "language_model", "devices": 4, "parallel": layout}
    models = speakers(24, 24, logits=False)
    _, whole = parts_of(*models, **more)
    _, part = parts_of(*models, **more, train={"freeze": ["embeddings/word"]})
    found = part.frozen_sharding.student["embeddings"]["word"]["table"]
    assert found == whole.state_sharding.params["student"]["embeddings"]["word"]["table"]
    kept = found.shard_shape((24, GPT2["n_embd"]))
    assert kept == ((12, GPT2["n_embd"] // 2) if share == "parameters" else (12, GPT2["n_embd"]))
    assert part.state_sharding.params["student"]["embeddings"]["word"]["table"] is None


@pytest.mark.parametrize(("teacher", "parts"), [("shared", 2), ("wide", 4), ("whole", 1)])
def test_the_teacher_lies_as_the_configuration_says(teacher, parts):
    layout = {"data": 2, "fsdp": 2, "teacher": teacher}
    more = {"task": "language_model", "devices": 4, "parallel": layout}
    models = speakers(24, 24, logits=False)
    _, made = parts_of(*models, **more)
    of = made.frozen_sharding.teachers["teacher"]["layers"]["up"]["kernel"]
    shape = models[1].params["layers"]["up"]["kernel"].shape
    assert np.prod(shape) == parts * np.prod(of.shard_shape(shape))
    assert of.memory_kind != "pinned_host"
    _, far = parts_of(*models, **{**more, "parallel": {**layout, "teacher_memory": "host"}})
    assert {leaf.memory_kind for leaf in jax.tree.leaves(far.frozen_sharding)} == {"pinned_host"}


def test_the_teacher_is_kept_as_the_configuration_says():
    kinds = []
    for storage in ("dtype", "int8"):
        kept = {"model": MLP, "storage": storage}
        models = speakers(24, 24, logits=False)
        setup, _ = parts_of(*models, task="language_model", teacher=kept)
        kinds.append({str(leaf.dtype) for leaf in jax.tree.leaves(setup.teacher.params)})
    assert kinds == [{"float32"}, {"float32", "int8"}]


@pytest.mark.parametrize("codec", [Full(), TopK(CLASSES, 3.0), Sampled(CLASSES, temperature=3.0)])
def test_stored_outputs_teach_what_the_model_itself_does(codec):
    """All classes are kept, at the temperature of the objective: what is left is rounding."""
    terms = {"objective": {"soft": {"loss": "forward_kl", "temperature": 3.0}}}
    student, teacher = perceptrons()
    batch, found = numbers(), []
    logits = np.asarray(teacher.apply(teacher.params, batch).logits)
    fields = encode(codec, logits, token_keys(0, np.arange(ROWS), np.zeros(ROWS)))
    told = {f"teacher_{name}": field for name, field in fields.items()}
    for speaker in (teacher, Stored(codec, CLASSES)):
        made, state, frozen = assembled(student, speaker, **terms)
        found.append(jax.jit(made.step)(state, frozen, {**batch, **told})[1]["soft"].value())
    assert found[0] > 0.1
    np.testing.assert_allclose(found[1], found[0], rtol=2e-2)


def test_padding_is_known_of_a_head_whose_outputs_are_stored():
    student, _ = speakers(24, 24, logits=False)
    for width, expected in ((32, 20), (24, None)):
        known = Stored(TopK(4), width)
        setup, _ = parts_of(student, known, Facts(vocabulary=20), task="language_model")
        assert setup.objective.keywords["vocabulary"] == expected


def from_mean(student: Any, teacher: Any, batch: Any, *, maps: Any, state: Any, step: Any) -> Any:
    """Distance of mapped logits from the teacher's, less the mean of those that it saw before."""
    values = ((student.logits @ maps - teacher.logits + state[None]) ** 2).mean(-1)
    return Mean.of(values, batch["weight"]), state + teacher.logits.mean(0)


def test_what_a_method_carries_and_trains_begins_as_it_says_and_goes_on(monkeypatch):
    monkeypatch.setattr(registry, "_REGISTERED", {})
    parts = {
        "state": lambda student, teacher: jax.numpy.full(CLASSES, 0.5),
        "maps": lambda student, teacher, key: jax.numpy.eye(CLASSES),
    }
    registry.register_method(Method("from_mean", "outputs", from_mean, **parts))
    student, teacher = perceptrons()
    made, state, frozen = assembled(student, teacher, objective={"own": {"loss": "from_mean"}})
    batch = numbers()
    theirs = np.asarray(teacher.apply(teacher.params, batch).logits)
    ours = np.asarray(student.apply(student.params, batch).logits)
    step = jax.jit(made.step)
    np.testing.assert_array_equal(state.method_state["own"], np.full(CLASSES, 0.5))
    after, metrics = step(state, frozen, batch)
    expected = ((ours - theirs + 0.5) ** 2).mean()
    np.testing.assert_allclose(metrics["own"].value(), expected, rtol=1e-5)
    assert (after.params["projections"]["own"] != np.eye(CLASSES)).any()
    after, _ = step(after, frozen, batch)
    carried = 0.5 + 2 * theirs.mean(0)
    np.testing.assert_allclose(after.method_state["own"], carried, rtol=1e-5)


def test_maps_between_widths_are_drawn_by_the_seed_and_lie_between_the_models():
    student, _ = perceptrons()
    teacher = build_model({**MLP, "hidden_sizes": [9]}, seed=1, num_labels=CLASSES)
    hint = {"loss": "hidden_mse", "layers": {0: 0}}
    facts = Facts(modality="features", sizes={"features": FEATURES})
    setup, made = parts_of(student, teacher, facts, objective={"hint": hint})
    kernels = []
    for seed in (0, 1):
        state, frozen = made.start(student, seed=seed)
        frozen = dataclasses.replace(frozen, teachers={"teacher": setup.teacher.params})
        kernel = np.asarray(state.params["projections"]["hint"]["0"])
        _, metrics = jax.jit(made.step)(state, frozen, numbers())
        ours, theirs = (
            np.asarray(model.apply(model.params, numbers(), taps=(tap,)).features[tap])
            for model, tap in ((student, "layers.0.hidden"), (teacher, "layers.0.hidden"))
        )
        expected = ((ours @ kernel - theirs) ** 2).mean()
        np.testing.assert_allclose(metrics["hint"].value(), expected, rtol=1e-5)
        kernels.append(kernel)
    assert (kernels[0] != kernels[1]).all()
