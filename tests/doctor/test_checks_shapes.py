"""What shapes can say is said before anything is trained."""

import dataclasses

import numpy as np
import pytest
from support.findings import only
from support.setups import encoder, text_dataset

from jaxdistill.data.inputs.images import Images
from jaxdistill.data.reading.preprocessing import Preprocessing
from jaxdistill.data.split import make_split
from jaxdistill.doctor import checks_shapes
from jaxdistill.errors import ConfigError
from jaxdistill.models.registry import build_model
from jaxdistill.setup.projections import make_projections


def faults(setup) -> str:
    found = list(checks_shapes.shapes(setup))
    assert {finding.level for finding in found} == {"fatal"}, found
    return "; ".join(finding.message for finding in found)


def hidden(layers, loss="hidden_mse") -> dict:
    soft = {"loss": "forward_kl"}
    return {"objective": {"soft": soft, "hint": {"loss": loss, "layers": layers}}}


@pytest.mark.slow
def test_what_fits_is_ok(healthy):
    assert "fit these models" in only(checks_shapes.shapes(healthy(hidden({0: 1}))), "ok")
    attention = hidden({0: 1}, "attention_kl")
    only(checks_shapes.shapes(healthy(attention)), "ok")
    wide = healthy(hidden({0: 1}), student=encoder(1, hidden_size=4))
    only(checks_shapes.shapes(wide), "ok")


@pytest.mark.parametrize("untrained", [False, True])
def test_layers_that_a_model_does_not_have(healthy, untrained):
    """Whether or not the student exists before the teacher's fine-tune."""
    student = {"student": {"layers": 1, "initialize_from": "finetuned"}}
    models = {"student": None} if untrained else {}
    changes = student if untrained else {}
    assert "objective.hint.layers: got teacher layer 7, expected 0 to 1; the teacher has 2 lay" in (
        faults(healthy(changes | hidden({0: 7}), **models))
    )
    assert "got student layer 1, expected 0 to 0" in (
        faults(healthy(changes | hidden({1: 1}), **models))
    )


@pytest.mark.parametrize(
    ("student", "expected"),
    [
        ({"layers": [0, 5]}, "student.layers: got [0, 5], expected some of 0 to 1"),
        ({"layers": 3}, "student.layers: got 3, expected 1 to 2"),
        ({"hidden_size": 4}, "got a teacher of family 'bert', expected a decoder"),
    ],
)
def test_a_student_that_cannot_be_made_of_its_teacher(healthy, student, expected):
    student = {"student": {**student, "initialize_from": "finetuned"}}
    assert expected in faults(healthy(student, student=None))


@pytest.mark.slow
def test_attention_of_unlike_heads_and_of_families_without_it(healthy):
    setup = healthy(hidden({0: 1}, "attention_kl"), student=encoder(1, num_attention_heads=4))
    assert "gives the maps of 4 heads and teacher layer 1 of 2" in faults(setup)
    images = {"data": {"source": "digits"}}
    pixels = np.zeros((4, 8, 8, 1), np.float32)
    dataset = text_dataset()
    split = make_split(np.zeros(4, np.int32), Images(pixels, Preprocessing()))
    dataset = dataclasses.replace(dataset, train=split, modality="image")
    cnn = build_model({"family": "cnn", "hidden_sizes": [4, 4], "dense_size": 8}, num_labels=2)
    setup = healthy(
        images | hidden({0: 1}, "attention_kl"), dataset=dataset, teacher=cnn, student=cnn
    )
    message = faults(setup)
    assert "objective.hint.loss: got 'attention_kl', but the student (cnn) gives no such" in message
    mlp = build_model({"family": "mlp", "hidden_sizes": [4], "num_features": 64}, num_labels=2)
    setup = healthy(images | hidden({0: 1}), dataset=dataset, teacher=cnn, student=mlp)
    assert "expected the same places; pair layers of one resolution" in faults(setup)
    setup = healthy(images | hidden({0: 1}), dataset=dataset, teacher=cnn, student=cnn)
    assert "expected the same places" in faults(setup)
    setup = healthy(images | hidden({1: 1}), dataset=dataset, teacher=cnn, student=cnn)
    only(checks_shapes.shapes(setup), "ok")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"train": {"freeze": [""]}}, "train.freeze: the patterns [''] match every parameter"),
        ({"finetune": {"freeze": ["student"]}}, "finetune.freeze: the patterns ['student'] match"),
        ({"train": {"freeze": ["layers", "head", "embedding", "pooler", "norm"]}}, "every param"),
        ({"train": {"freeze": ["nowhere"]}}, "train.freeze: the pattern 'nowhere' matches no"),
        (
            {"train": {"optimizer_options": {"beta1": 0.9}}},
            "optimizer_options.beta1: unknown",
        ),
        ({"train": {"optimizer": "sgd", "optimizer_options": {"momentum": "x"}}}, "momentum"),
        ({"train": {"batch_size": 12, "accumulate": 3}, "parallel": {"data": 8}}, "batch_size"),
        ({"parallel": {"data": 1, "tensor": 4}}, "parallel.tensor: got 4, but the teacher has 2"),
    ],
)
def test_optimizers_batches_and_meshes_that_cannot_be_made(healthy, changes, expected):
    assert expected in faults(healthy(changes))


def test_layer_rates_need_layers(healthy):
    student = encoder(1)
    del student.params["layers"]
    setup = healthy({"train": {"layer_decay": 0.9, "unroll": False}}, student=student)
    assert "train.layer_decay: got 0.9, but the model has no layers" in faults(setup)
    only(checks_shapes.shapes(healthy({"train": {"layer_decay": 0.9}})), "ok")


def test_a_cache_that_is_yet_to_be_written_has_to_hold_what_the_objective_reads(healthy):
    assert "cache.codec: got 'hidden' for classification" in (
        faults(healthy({"cache": {"codec": "hidden"}}))
    )


def test_every_fault_is_told_at_once(healthy):
    changes = {"train": {"freeze": ["nowhere"]}, "finetune": {"freeze": ["no place"]}}
    message = faults(healthy(changes | hidden({0: 7})))
    assert all(part in message for part in ("'nowhere'", "'no place'", "teacher layer 7"))


def test_a_step_is_refused_what_the_check_refuses(healthy):
    setup = healthy(hidden({0: 7}))
    with pytest.raises(ConfigError, match="got teacher layer 7"):
        make_projections(setup.config, setup.teacher, None, setup.student, 0)
