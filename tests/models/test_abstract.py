"""Models without weights against the same models with them, and published numbers of parameters."""

import json
import math

import jax
import pytest

from jaxdistill.config.load import load_config
from jaxdistill.distill.models import student_shapes, teacher_shapes
from jaxdistill.errors import ModelError
from jaxdistill.models.abstract import abstract_model, without_weights
from jaxdistill.models.registry import build_model, save_model
from jaxdistill.models.shrink.importance import measure_importance
from jaxdistill.models.shrink.layers import student_from_teacher
from jaxdistill.models.shrink.width import narrow_student, narrowed_config
from jaxdistill.setup.facts import facts_without_data

QWEN = {
    "family": "qwen3", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "head_dim": 8,
    "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip
BERT = {
    "family": "bert", "vocab_size": 64, "hidden_size": 16, "intermediate_size": 32,
    "num_hidden_layers": 2, "num_attention_heads": 2,
}  # fmt: skip


def sizes(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)


@pytest.mark.mostly_slow
@pytest.mark.parametrize("spec", [QWEN, BERT, {"family": "mlp", "num_features": 8}])
def test_shapes_are_those_of_the_model(spec):
    options = {} if spec is QWEN else {"num_labels": 3}
    bare, whole = abstract_model(spec, **options), build_model(spec, **options)
    assert sizes(bare.params) == sizes(whole.params)
    assert sizes(bare.model_state) == sizes(whole.model_state)
    assert (bare.axes, bare.config, bare.options) == (whole.axes, whole.config, whole.options)


def test_of_a_folder_only_the_config_is_read(tmp_path):
    whole = build_model(BERT, labels=("a", "b", "c"))
    save_model(tmp_path, whole)
    for path in tmp_path.glob("*.safetensors"):
        path.unlink()
    bare = abstract_model(tmp_path)
    assert sizes(bare.params) == sizes(whole.params)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "unheard"}))
    with pytest.raises(ModelError, match="unheard"):
        abstract_model(tmp_path)


@pytest.mark.slow
def test_a_student_of_some_layers_is_traced():
    whole = build_model(QWEN)
    made = student_from_teacher(whole, [0, 3])
    bare = without_weights(lambda model: student_from_teacher(model, [0, 3]), abstract_model(QWEN))
    assert sizes(bare.params) == sizes(made.params)
    assert bare.config == made.config


@pytest.mark.slow
def test_a_narrower_student_has_the_config_that_slicing_gives_it():
    whole = build_model(QWEN)
    ids = jax.random.randint(jax.random.key(0), (2, 8), 0, 64)
    importance = measure_importance(whole, [{"input_ids": ids}])
    wanted = {"hidden_size": 16, "heads": 2, "mlp_size": 24}
    assert narrowed_config(whole, **wanted) == narrow_student(whole, importance, **wanted).config


@pytest.mark.parametrize(
    ("recipe", "teacher", "student"),
    [
        ("qwen3_8b_to_0.6b", 8_190_735_360, 596_049_920),
        ("llama3_70b_to_8b", 70_553_706_496, 8_030_261_248),
    ],
)
def test_recipes_to_plan_have_the_published_numbers_of_parameters(recipe, teacher, student):
    config = load_config(recipe)
    facts = facts_without_data(config)
    for model, count in (
        (teacher_shapes(config, facts), teacher),
        (student_shapes(config, facts), student),
    ):
        assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(model.params)) == count
