"""A run, a bench and a plan of one config lower one and the same program."""

import functools
from collections.abc import Callable
from pathlib import Path

import jax
import pytest
from support import runs
from support.texts import write_corpus

from jaxdistill.bench.loader import bench_trainer
from jaxdistill.config.load import check, load_config, recipes
from jaxdistill.config.schema import Config
from jaxdistill.distill import cache_stage
from jaxdistill.distill import models as build
from jaxdistill.distill.models import student_shapes, teacher_shapes
from jaxdistill.distill.trainer import Trainer, make_trainer
from jaxdistill.distill.workspace import Workspace
from jaxdistill.models.registry import Model, build_model, save_model
from jaxdistill.parallel.mesh import mesh_of
from jaxdistill.planning.plan import trained
from jaxdistill.planning.programs import Program, make_program
from jaxdistill.setup.facts import facts_without_data
from jaxdistill.setup.resolve import resolve, teacher_kind

GPT2 = "{family: gpt2, n_embd: 32, n_layer: 2, n_head: 2}"
LLAMA = (
    "hidden_size: 32, intermediate_size: 48, num_hidden_layers: 2, num_attention_heads: 4, "
    "num_key_value_heads: 2, head_dim: 8}"
)
LANGUAGE = ("data.tokenizer={vocabulary: 280}", "data.max_length=24")
# What makes each recipe small enough to run here; the rest stays as it is.
SMALL = {
    "digits": (),
    "sst2": (
        "student.layers=[1]",
        "data.max_length=16",
        "finetune.used_vocabulary=false",
        "train.used_vocabulary=false",
        "objective.hidden.layers={0: 1}",
    ),
    "stdlib_lm": LANGUAGE,
    "tinyshakespeare": LANGUAGE,
    **{
        recipe: (
            f"teacher.model={{family: {family}, {LLAMA}",
            f"student.model={{family: {family}, {LLAMA}",
            "train.batch_size=8",
            "parallel.fsdp=2",
            "parallel.data=4",
            *LANGUAGE,
        )
        for recipe, family in (("qwen3_8b_to_0.6b", "qwen3"), ("llama3_70b_to_8b", "llama"))
    },
}
Lowering = Callable[..., jax.stages.Lowered]
STAGES = ("finetune", "baseline", "distill", "bench")


def config_of(recipe: str, folder: Path, *more: str) -> Config:
    changes = [*SMALL[recipe], *more]
    if recipe == "sst2":
        rows = runs.write_sentences(folder / "train.tsv", 96, seed=0)
        changes += [f"data.train={rows}", f"teacher.model={runs.write_teacher(folder / 'bert')}"]
    elif recipe != "digits":
        changes += ["data.source=files", f"data.train={write_corpus(folder / 'texts')}"]
    return load_config(recipe, changes)


def trainer_of(
    config: Config, folder: Path, stage: str
) -> tuple[Trainer, Callable[..., jax.stages.Lowered]]:
    """Return what a run of a stage makes, or what is timed of it, and how its step is lowered."""
    if stage == "bench":
        workspace = Workspace(config, folder, force=False)
        trainer, model = bench_trainer(workspace, workspace.dataset, [])
        return trainer, lowering(trainer, model)
    dataset = build.load_data(config, folder / "data")
    teacher = build.load_teacher(config, dataset, training=stage == "finetune", seed=0)
    model = teacher
    if stage != "finetune":
        model = build.make_student(config, dataset, None, 0)
    train = config.finetune if stage == "finetune" else config.train
    assert train is not None  # stages that a config leaves out are not asked for
    trainer = make_trainer(
        config, train, dataset, model, stage=stage, teacher=teacher if stage == "distill" else None
    )
    return trainer, lowering(trainer, model)


def lowering(trainer: Trainer, model: Model) -> Lowering:
    """Return what lowers the step for a batch."""
    start = trainer.start(trainer.layout.lay_out(model), 0)
    return functools.partial(trainer.step.lower, start.state, start.frozen)


def planned(config: Config, trainer: Trainer, stage: str) -> Program:
    """Return the program of a plan of as many steps."""
    part = "finetune" if stage == "finetune" else "train"
    train = trainer.train_config.model_copy(update={"steps": trainer.total_steps})
    config = config.model_copy(update={part: train})
    name = trained(config) if stage in ("distill", "bench") else stage
    return make_program(config, mesh_of(config.parallel.sizes), name, apart=True)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("recipe", sorted(SMALL))
def test_a_run_and_a_plan_lower_the_same_program(recipe, stage, tmp_path):
    config = config_of(recipe, tmp_path)
    if stage == "finetune" and config.finetune is None:
        pytest.skip("the recipe takes its teacher as it is")
    trainer, lower = trainer_of(config, tmp_path, stage)
    program = planned(config, trainer, stage)
    batch = program.arguments[2]
    real = trainer.make_source(0)[0]
    assert {name: field.dtype for name, field in real.items()} == {
        name: field.dtype for name, field in batch.items()
    }
    assert lower(batch).as_text() == program.lower().as_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "freeze"),
    [
        ("sst2", "[embeddings, 'query/kernel']"),
        ("qwen3_8b_to_0.6b", "['layers/.*/0$', '^student/norm']"),
    ],
)
def test_a_frozen_part_is_planned_as_it_is_run(recipe, freeze, tmp_path):
    config = config_of(recipe, tmp_path, f"train.freeze={freeze}")
    trainer, lower = trainer_of(config, tmp_path, "distill")
    program = planned(config, trainer, "distill")
    _, frozen, batch = program.arguments
    assert jax.tree.leaves(frozen.student)
    assert lower(batch).as_text() == program.lower().as_text()


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["hidden", "topk", "sampled"])
def test_a_cache_is_planned_as_it_is_read(codec, tmp_path):
    padded = ("teacher.model.vocab_size=288",) if codec == "hidden" else ()
    config = config_of("stdlib_lm", tmp_path, f"cache.codec={codec}", *padded)
    workspace = Workspace(config, tmp_path / "run", force=False)
    teacher = build.load_teacher(config, workspace.dataset, training=False, seed=0)
    of = workspace.identity()
    cache_stage.write(config, workspace.dataset, teacher, workspace.workdir / "cache", of)
    assert workspace.cache is not None
    student = build.make_student(config, workspace.dataset, None, 0)
    trainer = make_trainer(
        config, config.train, workspace.dataset, student, stage="distill", teacher=workspace.cache
    )
    program = planned(config, trainer, "distill")
    batch = program.arguments[2]
    assert lowering(trainer, student)(batch).as_text() == program.lower().as_text()


@pytest.mark.slow
def test_sizes_of_images_that_the_config_names_are_planned(tmp_path):
    config = load_config("digits", ["data.image_size=12"])
    trainer, lower = trainer_of(config, tmp_path, "distill")
    program = planned(config, trainer, "distill")
    assert program.arguments[2]["images"].shape[1:] == (12, 12, 1)
    assert lower(program.arguments[2]).as_text() == program.lower().as_text()


def test_a_mapping_has_the_outputs_of_the_folder_beside_it(tmp_path):
    teacher = build_model({**runs.SIZES}, labels=("a", "b", "c"))
    save_model(tmp_path / "bert", teacher)
    sides = {"teacher": {"model": str(tmp_path / "bert")}, "student": {"model": dict(runs.SIZES)}}
    config = check({"data": {"train": "x.tsv", "max_length": 16}, **sides})
    facts = facts_without_data(config)
    for model in (teacher_shapes(config, facts), student_shapes(config, facts)):
        assert model.options is not None
        assert model.options.num_labels == 3


def test_every_recipe_is_compared():
    assert set(SMALL) == set(recipes())


def test_the_teacher_takes_part_as_the_config_says(tmp_path):
    config = load_config("digits")
    assert (teacher_kind(config), trained(config)) == ("memory", "cached")
    shifted = load_config("digits", ["data.shift=1"])
    assert (teacher_kind(shifted), trained(shifted)) == ("live", "joint")
    written = load_config("digits", ["cache.codec=full"])
    assert (teacher_kind(written), trained(written)) == ("cache", "cached")


def test_layers_are_compared_on_what_the_data_are():
    """A perceptron cannot say by itself that its numbers are the pixels of an image."""
    family = {"family": "mlp", "hidden_sizes": [6, 5]}
    config = check(
        {
            "data": {"source": "digits"},
            "teacher": {"model": {**family, "hidden_sizes": [9]}},
            "student": {"model": family},
            "objective": {"hint": {"loss": "hidden_mse", "layers": {1: 0}}},
        }
    )
    facts = facts_without_data(config)
    student, teacher = student_shapes(config, facts), teacher_shapes(config, facts)
    setup = resolve(config, config.train, facts, student, teacher, total_steps=1)
    assert setup.projections["hint"]["1"].shape == (5, 9)
