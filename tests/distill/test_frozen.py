"""A run with `train.freeze` trains, measures, saves and hands on as one that holds everything."""

import dataclasses
import re
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from support import runs

from jaxdistill.bench.timing import topology_of
from jaxdistill.config.load import load_config
from jaxdistill.distill import models as build
from jaxdistill.distill.trainer import make_trainer, run_seed
from jaxdistill.engine.optimizer import make_optimizer
from jaxdistill.errors import CheckpointError, Preempted
from jaxdistill.parallel.mesh import make_mesh
from jaxdistill.planning.account import account
from jaxdistill.planning.programs import make_program
from jaxdistill.runtime import preemption
from jaxdistill.setup import assembly

STEPS = 8
PATTERNS = ("embeddings", "layers/.*/0$", "projections")
FREEZE = "train.freeze=[embeddings, 'layers/.*/0$', projections]"
TRAIN = {"steps": STEPS, "batch_size": 16, "learning_rate": 3e-3, "dropout": 0.0, "ema": 0.5}


@pytest.fixture(scope="module")
def config_file(tmp_path_factory) -> str:
    """A distillation of two layers from a wider teacher that is taken as it is."""
    objective = {
        "soft": {"loss": "forward_kl", "temperature": 2.0},
        "hidden": {"loss": "hidden_mse", "layers": {"0": 1}, "weight": 0.1},
    }
    folder = tmp_path_factory.mktemp("toy")
    student = runs.write_teacher(folder / "student", seed=1, hidden_size=8)
    sections = {
        "student": {"model": student, "layers": None},
        "train": TRAIN | {"weight_decay": 0.0},
        "objective": objective,
    }
    return runs.write_config(folder, finetune=None, **sections)


def prepared(config_file: str, folder: Path, *overrides: str):
    """Return a student that has not been trained, and the trainer that distils it."""
    config = load_config(config_file, list(overrides))
    dataset = build.load_data(config, folder / "cache")
    teacher = build.load_teacher(config, dataset, training=False, seed=0)
    student = build.make_student(config, dataset, None, seed=0)
    return student, make_trainer(
        config, config.train, dataset, student, stage="distill", teacher=teacher
    )


def trained(config_file: str, folder: Path, *overrides: str, draw: int = 0):
    """Distil for a few steps; return the student before and after, and its trainer."""
    student, trainer = prepared(config_file, folder, *overrides)
    if draw:
        moved = jax.tree.map(lambda leaf: leaf + draw, student.params["embeddings"])
        student = dataclasses.replace(student, params={**student.params, "embeddings": moved})
    after, result = run_seed(trainer, student, folder / "run", 0)
    assert result.steps == STEPS
    return student.params, after.params, trainer


@pytest.fixture(scope="module")
def zeroed(config_file, tmp_path_factory):
    """The same run with everything in the state and updates that are set to zero."""

    def whole(config, params, total_steps):
        made = make_optimizer(config, params, total_steps)
        names = jax.tree_util.tree_map_with_path(
            lambda path, _: jax.tree_util.keystr(path, simple=True, separator="/"), params
        )
        frozen = jax.tree.map(lambda name: any(re.search(one, name) for one in PATTERNS), names)
        return optax.partition({False: made, True: optax.set_to_zero()}, frozen)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assembly, "make_optimizer", whole)
        return trained(config_file, tmp_path_factory.mktemp("zeroed"), "train.unroll=true")


def assert_close(ours, theirs, tolerance=2e-6):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=tolerance), ours, theirs
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("train.unroll=false",),
        ("train.used_vocabulary=false", "train.accumulate=4"),
        ("parallel.data=2", "parallel.fsdp=4", "train.unroll=false"),
        ("parallel.data=2", "parallel.fsdp=2", "parallel.share=optimizer"),
        ("parallel.data=8", "parallel.strategy=pmap", "train.unroll=false"),
    ],
    ids=["apart", "scanned", "accumulate", "fsdp", "zero1", "pmap"],
)
def test_it_trains_as_if_updates_were_set_to_zero(config_file, zeroed, overrides, tmp_path):
    before, after, trainer = trained(config_file, tmp_path, FREEZE, *overrides)
    jax.tree.map(np.testing.assert_array_equal, after["embeddings"], before["embeddings"])
    for ours, theirs in zip(
        *map(jax.tree.leaves, (after["layers"], before["layers"])), strict=True
    ):
        np.testing.assert_array_equal(ours[0], theirs[0])
        assert (ours[1] != theirs[1]).any()
    assert_close(after, zeroed[1], tolerance=1e-5)
    start = trainer.start(trainer.layout.lay_out(build_of(trainer)), 0)
    assert not jax.tree.leaves(start.state.params["projections"])
    assert not jax.tree.leaves(start.state.params["student"]["embeddings"])


def build_of(trainer):
    return build.make_student(trainer.config, trainer.dataset, None, seed=0)


@pytest.mark.slow
def test_it_goes_on_with_what_it_froze_and_with_nothing_else(
    config_file, zeroed, tmp_path, monkeypatch
):
    asked = []
    monkeypatch.setattr(preemption, "requested", lambda: len(asked.append(0) or asked) == 4)
    with pytest.raises(Preempted, match="the state is saved"):
        trained(config_file, tmp_path, FREEZE)
    weighed = [path for path in (tmp_path / "run" / "checkpoints").rglob("*") if path.is_file()]
    assert weighed
    with pytest.raises(CheckpointError, match=r"frozen parameters are not those of this run.*hash"):
        trained(config_file, tmp_path, FREEZE, draw=1)
    with pytest.raises(CheckpointError, match=r"cannot be restored: it lacks .* the run trains"):
        trained(config_file, tmp_path)
    _, after, _ = trained(config_file, tmp_path, FREEZE)
    assert_close(after, zeroed[1], tolerance=1e-5)


@pytest.mark.slow
def test_a_checkpoint_knows_the_frozen_layers_and_maps_again_and_no_others(config_file, tmp_path):
    """The maps are drawn with the seed, which is all that differs between the first two."""

    def known(freeze: str, *, seed: int = 0, moved: str | None = None) -> str | None:
        student, trainer = made[freeze]
        if moved is not None:
            other = jax.tree.map(lambda leaf: leaf + 1, student.params[moved])
            student = dataclasses.replace(student, params={**student.params, moved: other})
        return trainer.start(trainer.layout.lay_out(student), seed).frozen_hash

    settings = ("[]", "[embeddings]", "[embeddings, projections]")
    made = {
        one: prepared(config_file, tmp_path, f"train.freeze={one}", "train.unroll=false")
        for one in settings
    }
    assert known("[]") is None
    both = known("[embeddings, projections]")
    assert both == known("[embeddings, projections]")
    assert both != known("[embeddings, projections]", seed=1)
    assert both != known("[embeddings, projections]", moved="embeddings")
    assert both == known("[embeddings, projections]", moved="head")
    assert known("[embeddings]") == known("[embeddings]", seed=1)


@pytest.mark.mostly_slow
@pytest.mark.parametrize("apart", [True, False], ids=["apart", "scanned"])
@pytest.mark.parametrize(
    "freeze",
    ["^student/(?!head/)", "embeddings", "layers/.*/[0-2]$|embeddings", "kernel", "head|pooler"],
)
def test_a_plan_counts_what_the_compiled_step_computes(freeze, apart, frozen_benchmark):
    """Operations of the optimized program, and the bytes that it is given."""
    sizes = frozen_benchmark.BASE | {
        "hidden_size": 64,
        "num_hidden_layers": 4,
        "intermediate_size": 256,
        "num_attention_heads": 2,
        "vocab_size": 128,
    }
    config = frozen_benchmark.config_of(sizes, (freeze,), 8, 32)
    mesh = make_mesh(1, devices=jax.devices()[:1])
    program = make_program(config, mesh, "baseline", apart=apart)
    compiled = program.lower().compile()
    found = account(program, compiled, mesh, topology_of(mesh))
    assert found.flops == pytest.approx(program.run_flops, rel=0.08)
    whole = make_program(
        frozen_benchmark.config_of(sizes, (), 8, 32), mesh, "baseline", apart=apart
    )
    assert program.useful_flops < whole.useful_flops
    assert program.held["parameters"] == whole.held["parameters"]
    assert program.held["optimizer"] < whole.held["optimizer"]
    given = sum(program.held.values())
    assert compiled.memory_analysis().argument_size_in_bytes == pytest.approx(given, rel=0.01)


@pytest.fixture
def frozen_benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "benchmarks"))
    import frozen as benchmark

    return benchmark


@pytest.mark.slow
def test_of_bert_base_the_head_alone_is_held_computed_and_saved(frozen_benchmark):
    base, shape = frozen_benchmark.BASE, {"rows": 2, "length": 16, "apart": True}
    whole = frozen_benchmark.measure(base, (), **shape)
    head = frozen_benchmark.measure(base, (frozen_benchmark.BODY,), **shape)
    saved = frozen_benchmark.saved_bytes(base, (frozen_benchmark.BODY,))
    print(whole, head, saved)
    assert whole["trained_bytes"] > 430e6
    assert head["frozen_bytes"] + head["trained_bytes"] == whole["trained_bytes"]
    assert head["trained_bytes"] == 4 * (2 * 768 + 2)
    assert head["optimizer_bytes"] < 3 * head["trained_bytes"]
    # Gradients of the whole model are as large as it is; those of the head do not show.
    assert whole["temporary_bytes"] > whole["trained_bytes"]
    assert head["temporary_bytes"] < 0.1 * whole["trained_bytes"]
    assert saved["checkpoint_bytes"] < 0.02 * saved["model_bytes"]
