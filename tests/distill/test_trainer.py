"""How parameters lie while they train changes nothing but the speed."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from support import runs

from jaxdistill.config.load import load_config
from jaxdistill.data.text import used_vocabulary
from jaxdistill.distill import models as build
from jaxdistill.distill import stages
from jaxdistill.distill.trainer import make_trainer, run_seed
from jaxdistill.engine.optimizer import layer_factors
from jaxdistill.errors import ConfigError, Preempted
from jaxdistill.models.layers import stacking as layout
from jaxdistill.models.registry import load_model
from jaxdistill.runtime import preemption

STEPS = 8
TRAIN = {"steps": STEPS, "batch_size": 16, "learning_rate": 3e-3, "dropout": 0.0, "keep": "last"}


@pytest.fixture(scope="module")
def config_file(tmp_path_factory) -> str:
    """A distillation of hidden states and logits from a teacher that is taken as it is."""
    objective = {
        "soft": {"loss": "forward_kl", "temperature": 2.0},
        "hard": {"loss": "cross_entropy"},
        "hidden": {"loss": "hidden_mse", "layers": {"0": 1}, "weight": 0.1},
    }
    sections = {"train": TRAIN, "objective": objective, "data": {"buckets": 1}}
    return runs.write_config(tmp_path_factory.mktemp("toy"), finetune=None, **sections)


def trained(config_file: str, folder: Path, *overrides: str):
    """Distil for a few steps; return the student before and after."""
    config = load_config(config_file, list(overrides))
    dataset = build.load_data(config, folder / "cache")
    teacher = build.load_teacher(config, dataset, training=False, seed=0)
    student = build.make_student(config, dataset, None, seed=0)
    trainer = make_trainer(config, config.train, dataset, student, stage="distill", teacher=teacher)
    after, result = run_seed(trainer, student, folder / "run", 0)
    assert result.steps == STEPS
    return student, after, dataset, trainer


@pytest.fixture(scope="module")
def reference(config_file, tmp_path_factory):
    """The plain way: every embedding row, layers stacked and scanned, no weight decay."""
    folder = tmp_path_factory.mktemp("reference")
    plain = ["train.used_vocabulary=false", "train.unroll=false", "train.weight_decay=0"]
    return trained(config_file, folder, *plain)


def assert_close(ours, theirs, tolerance=2e-6):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=tolerance), ours, theirs
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("used", "unroll"), [("true", "true"), ("true", "false"), ("false", "true")]
)
def test_layouts_agree(config_file, reference, tmp_path, used, unroll):
    overrides = [f"train.used_vocabulary={used}", f"train.unroll={unroll}", "train.weight_decay=0"]
    _, after, _, trainer = trained(config_file, tmp_path, *overrides)
    assert (trainer.layout.used_ids is not None) == (used == "true")
    assert trainer.layout.apart == (unroll == "true")
    assert_close(after.params, reference[1].params)


@pytest.mark.slow
def test_devices_and_strategies_agree(config_file, reference, tmp_path):
    for name, overrides in {
        "jit": ["parallel.data=2", "parallel.fsdp=2", "parallel.tensor=2"],
        "pmap": ["parallel.data=8", "parallel.strategy=pmap"],
        "accumulate": ["train.accumulate=4"],
    }.items():
        _, after, _, _ = trained(config_file, tmp_path / name, "train.weight_decay=0", *overrides)
        assert_close(after.params, reference[1].params, tolerance=2e-5)


@pytest.mark.slow
def test_a_run_goes_on_with_other_devices(config_file, reference, tmp_path, monkeypatch):
    steps = []
    monkeypatch.setattr(preemption, "requested", lambda: len(steps.append(0) or steps) == 4)
    plain = ["train.weight_decay=0"]
    with pytest.raises(Preempted, match="after step 4 of 8"):
        trained(config_file, tmp_path, *plain, "parallel.data=2", "parallel.fsdp=4")
    _, after, _, _ = trained(config_file, tmp_path, *plain, "parallel.fsdp=2")
    assert_close(after.params, reference[1].params, tolerance=2e-5)


@pytest.mark.slow
def test_the_student_learned(reference):
    before, after, _, _ = reference
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), before.params, after.params)
    assert moved["layers"]["attention"]["key"]["kernel"] > 1e-3
    assert moved["head"]["output"]["kernel"] > 1e-3


@pytest.mark.slow
def test_rows_out_of_use_keep_their_values(config_file, tmp_path):
    before, after, dataset, _ = trained(config_file, tmp_path)
    used = used_vocabulary.used_ids(dataset)
    rows = np.setdiff1d(np.arange(before.config.vocab_size), used)
    assert len(rows)
    (name,) = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, names in jax.tree_util.tree_leaves_with_path(
            before.axes, is_leaf=lambda node: isinstance(node, tuple)
        )
        if "vocab" in names
    ]
    old, new = before.params, after.params
    for part in name.split("/"):
        old, new = old[part], new[part]
    np.testing.assert_array_equal(np.asarray(old)[rows], np.asarray(new)[rows])
    assert (np.asarray(old)[used] != np.asarray(new)[used]).any(axis=1).sum() > 5


@pytest.mark.slow
def test_one_trace_per_bucket_whatever_the_seeds_and_epochs(config_file, tmp_path):
    objective = ["objective={soft: {loss: forward_kl}, hard: {loss: cross_entropy}}"]
    epochs = ["train.steps=null", "train.epochs=2", "data.buckets=2"]
    config = load_config(config_file, [*epochs, *objective])
    dataset = build.load_data(config, tmp_path / "cache")
    teacher = build.load_teacher(config, dataset, training=False, seed=0)
    student = build.make_student(config, dataset, None, seed=0)
    shapes = []

    def counted(params, batch, *, train=False, **options):
        if train:
            shapes.append(batch["input_ids"].shape)
        return student.apply(params, batch, train=train, **options)

    watched = dataclasses.replace(student, apply=counted)
    trainer = make_trainer(config, config.train, dataset, watched, stage="distill", teacher=teacher)
    for seed in (0, 1):
        _, result = run_seed(trainer, watched, tmp_path / f"seed-{seed}", seed)
        assert result.steps == 2 * trainer.make_source(seed).steps_per_epoch
    assert sorted(shapes) == sorted(trainer.make_source(0).shapes)
    assert len(shapes) == config.data.buckets


@pytest.mark.slow
def test_a_precomputed_teacher_teaches_the_same(config_file, tmp_path):
    """Logits dealt out with the batches are those of the live teacher."""
    objective = ["objective={soft: {loss: forward_kl}}", "train.used_vocabulary=false"]
    config = load_config(config_file, objective)
    dataset = build.load_data(config, tmp_path / "cache")
    teacher = build.load_teacher(config, dataset, training=False, seed=0)
    student = build.make_student(config, dataset, None, seed=0)
    trainer = make_trainer(config, config.train, dataset, student, stage="distill", teacher=teacher)
    assert not jax.tree.leaves(trainer.start(trainer.layout.lay_out(student), 0).frozen)
    for step in (0, trainer.make_source(0).steps_per_epoch - 1):
        batch = trainer.make_source(0)[step]
        live = jax.jit(teacher.apply)(teacher.params, batch).logits
        np.testing.assert_allclose(batch["teacher_logits"], live, atol=1e-5)


def test_a_teacher_whose_layers_are_read_cannot_be_precomputed(config_file, tmp_path):
    with pytest.raises(ConfigError, match=r"teacher.precompute.*objective.hidden reads"):
        trained(config_file, tmp_path, "teacher.precompute=true")


@pytest.mark.slow
def test_unstack_and_restack_are_inverse(config_file):
    folder = json.loads(Path(config_file).read_text())["teacher"]["model"]
    model = load_model(folder)
    apart = layout.unstack(model.params, model.axes)
    assert len(jax.tree.leaves(apart)) > len(jax.tree.leaves(model.params))
    assert_close(layout.restack(apart, model.axes), model.params, tolerance=0)
    batch = {"input_ids": np.array([[2, 6, 3]]), "attention_mask": np.ones((1, 3), np.int32)}
    together, one_by_one = model.apply(model.params, batch), model.apply(apart, batch)
    np.testing.assert_allclose(one_by_one.logits, together.logits, atol=1e-6)


def test_layer_rates_agree_between_layouts(config_file):
    folder = json.loads(Path(config_file).read_text())["teacher"]["model"]
    model = load_model(folder)
    stacked = layer_factors({"student": model.params}, 0.5)["student"]
    apart = layer_factors({"student": layout.unstack(model.params, model.axes)}, 0.5)["student"]
    joined = layout.restack(apart, model.axes)
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(np.ravel(a), np.ravel(b)), joined, stacked
    )


@pytest.mark.mostly_slow
@pytest.mark.parametrize("precompute", ["true", "false"])
def test_the_embedded_images_are_distilled(tmp_path, precompute):
    """The recipe of the README, whose models have no vocabulary."""
    steps = ["finetune.steps=2", "train.steps=2", "seeds=[0]", "data.train_examples=64"]
    layout = ["parallel.data=1", "parallel.compilation_cache=false", "telemetry.progress=none"]
    overrides = [*steps, *layout, f"teacher.precompute={precompute}"]
    result = stages.run(load_config("digits", overrides), tmp_path, until="distill")
    assert result["seeds"][0]["steps"] == 2
