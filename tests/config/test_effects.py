"""An option that does nothing is refused by name, and so is an objective that trains nothing."""

import inspect

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
import yaml

from jaxdistill import losses
from jaxdistill.config.base import DECAYING, ScheduleConfig
from jaxdistill.config.effects import effective, idle_options
from jaxdistill.config.load import check, dump, load_config
from jaxdistill.engine.optimizer import OPTIMIZERS, make_optimizer, value_schedule
from jaxdistill.errors import ConfigError
from jaxdistill.methods.registry import methods
from jaxdistill.models.outputs import Head, Outputs
from jaxdistill.setup import objective as objectives

IMAGES = {
    "data": {"source": "digits"},
    "teacher": {"model": {"family": "cnn"}},
    "student": {"model": {"family": "mlp"}},
}
TEXTS = {
    "task": "language_model",
    "data": {"train": "corpus.jsonl"},
    "teacher": {"model": "teacher"},
    "student": {"layers": 2},
}
SENTENCES = {**TEXTS, "task": "classification"}


def merged(base: dict, changes: dict) -> dict:
    """Set values by their dotted keys."""
    values = yaml.safe_load(yaml.safe_dump(base))
    for key, value in changes.items():
        *parents, last = key.split(".")
        node = values
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return values


OPTIONS = {name: tuple(method.options.model_fields) for name, method in methods().items()}


def fault(base: dict, **changes) -> str:
    with pytest.raises(ConfigError) as caught:
        check(merged(base, changes))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_options_of_a_loss_are_those_that_its_function_takes():
    """Beside the mask and the axis, which a run sets itself."""
    for name, options in OPTIONS.items():
        taken = set(inspect.signature(getattr(losses, name)).parameters)
        known = {"temperature", "beta", "label_smoothing"}
        assert taken & known == set(options) - {"layers"}, name


@pytest.mark.parametrize("loss", OPTIONS)
@pytest.mark.parametrize(
    ("option", "value"),
    [("temperature", 1.0), ("beta", 0.5), ("label_smoothing", 0.0), ("layers", {0: 0})],
)
def test_an_option_that_a_loss_does_not_have_is_an_unknown_key(loss, option, value):
    """Even at its default: it stands for something that does not happen."""
    tasks = {"regression": "regression", "mse_logits": "regression", "multilabel": "multilabel"}
    term = {"loss": loss, option: value} | ({"layers": {0: 1}} if "layers" in OPTIONS[loss] else {})
    term[option] = value
    values = {**IMAGES, "task": tasks.get(loss, "classification"), "objective": {"a": term}}
    if option in OPTIONS[loss]:
        check(values)
        return
    with pytest.raises(ConfigError, match=rf"objective.a.{option}: unknown key for the loss"):
        check(values)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"weight": {"start": 1, "end": -1}}, "objective.a.weight.end: got -1, expected a number"),
        ({"weight": {"start": -0.1, "end": 1}}, "objective.a.weight.start: got -0.1"),
        ({"temperature": {"start": 4, "end": 0}}, "objective.a.temperature.end: got 0, expected"),
        ({"temperature": {"start": 4, "end": 0, "over": 0.5}}, "objective.a.temperature.end"),
        ({"temperature": {"start": 0, "end": 4, "shape": "cosine"}}, "objective.a.temperature.st"),
        ({"temperature": {"start": 4, "end": -1}}, "objective.a.temperature.end: got -1"),
        (
            {"weight": {"start": 1, "end": 0, "shape": "constant"}},
            "objective.a.weight.end: got 0 for the shape 'constant'",
        ),
        ({"weight": 0}, "objective: got the weight 0 for every term (a), which trains nothing"),
        ({"weight": {"start": 0, "end": 0}}, "objective: got the weight 0 for every term"),
        (
            {"weight": {"start": 0, "end": 0, "shape": "constant"}},
            "objective: got the weight 0 for every term",
        ),
    ],
)
def test_every_point_of_a_schedule_is_in_range_and_something_is_trained(value, expected):
    assert expected in fault(IMAGES, objective={"a": {"loss": "forward_kl", **value}})


@pytest.mark.parametrize("shape", ["linear", "cosine"])
@pytest.mark.parametrize("ends", [(0.0, 1.0), (4.0, 0.5)])
def test_no_value_on_the_way_is_beyond_the_ends(shape, ends):
    """So that checking both is checking all."""
    start, end = ends
    schedule = value_schedule(ScheduleConfig(shape=shape, start=start, end=end, over=0.7), 50)
    found = [float(schedule(step)) for step in range(60)]
    assert min(found) >= min(ends) - 1e-6
    assert max(found) <= max(ends) + 1e-6


@pytest.mark.mostly_slow
@pytest.mark.parametrize(
    "loss", ["forward_kl", "reverse_kl", "jsd", "total_variation", "bernoulli_kl"]
)
def test_a_distribution_over_one_output_teaches_nothing(loss):
    values = {"task": "regression", "objective": {"soft": {"loss": loss}}}
    assert f"objective.soft.loss: got {loss!r} for task 'regression'" in fault(IMAGES, **values)
    if loss != "bernoulli_kl":
        one = np.random.default_rng(0).normal(size=(2, 5, 1))
        np.testing.assert_array_equal(getattr(losses, loss)(*one), 0)


@pytest.mark.mostly_slow
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("heat", [1.0, 4.0])
def test_total_variation_of_a_config_has_its_temperature(fused, heat):
    """Half of the distance between the softened distributions."""
    base = TEXTS if fused else SENTENCES
    soft = {"loss": "total_variation", "temperature": heat}
    config = check(merged(base, {"objective": {"soft": soft}}))
    generator = np.random.default_rng(0)
    hidden, other = generator.normal(size=(2, 2, 3, 4)).astype(np.float32)
    weights = generator.normal(size=(4, 6)).astype(np.float32)
    sides = []
    for states in (hidden, other):
        logits = jnp.asarray(states @ weights)
        head = Head(jnp.asarray(weights))
        made = Outputs(hidden=jnp.asarray(states), head_parameters=head)
        made = made if fused else Outputs(logits=logits)
        sides.append((made, logits))
    (student, ours), (teacher, theirs) = sides
    batch = {"labels": jnp.zeros((2, 3), jnp.int32), "loss_mask": jnp.ones((2, 3))}
    found = objectives.distillation_objective(config, 1, set()).means(
        student, teacher, batch, step=jnp.int32(0)
    )
    p, q = (scipy.special.softmax(np.asarray(side) / heat, -1) for side in (ours, theirs))
    expected = 0.5 * np.abs(p - q).sum(-1).mean()
    np.testing.assert_allclose(found["soft"].value(), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("base", "changes", "expected"),
    [
        (IMAGES, {"data.train": "my.csv"}, "data.train: got a value that has no effect"),
        (IMAGES, {"data.test": "my.csv"}, "set data.source=files to read it"),
        (IMAGES, {"data.format": "csv"}, "data.format"),
        (SENTENCES, {"data.subset": "sst2"}, "data.subset"),
        (SENTENCES, {"data.streaming": True}, "data.streaming"),
        (SENTENCES, {"data.messages": "chat"}, "data.messages"),
        ({**IMAGES, "task": "regression"}, {"data.labels": ["a", "b"]}, "data.labels"),
        (TEXTS, {"data.labels": ["a", "b"]}, "data.labels"),
        (TEXTS, {"data.label": "y"}, "data.label"),
        (TEXTS, {"data.shift": 1}, "data.shift"),
        (TEXTS, {"data.image_size": 32}, "data.image_size"),
        (TEXTS, {"data.layout": "pack"}, "data.layout"),
        (TEXTS, {"data.buckets": 4}, "data.buckets"),
        (TEXTS, {"student.pooling": "mean"}, "student.pooling"),
        (TEXTS, {"train.used_vocabulary": True}, "train.used_vocabulary"),
        (SENTENCES, {"cache": {"k": 8}}, "cache.k: got a value that has no effect: it is of"),
        (SENTENCES, {"cache": {"codec": "topk", "samples": 8}}, "cache.samples"),
        (TEXTS, {"cache": {"codec": "topk", "dtype": "int8"}}, "cache.dtype"),
        (TEXTS, {"cache": {"codec": "hidden", "seed": 1}}, "cache.seed"),
        (SENTENCES, {"student.calibration_batches": 4}, "student.calibration_batches"),
        (IMAGES, {"student.initialize_from": "finetuned"}, "student.initialize_from"),
        (SENTENCES, {"losses": "dense"}, "losses"),
        (SENTENCES, {"generate": {"examples": 3}}, "generate"),
        (
            SENTENCES,
            {"train.optimizer": "adam", "train.weight_decay": 0.1},
            "train.weight_decay: got a value that has no effect: it is none of the optimizer 'adam'"
            "; of adamw",
        ),
        (
            SENTENCES,
            {"finetune.optimizer": "radam", "finetune.no_decay": ["bias"]},
            "finetune.no_decay",
        ),
    ],
)
def test_an_option_without_effect_is_refused_by_name(base, changes, expected):
    assert expected in fault(base, **changes)


@pytest.mark.parametrize(
    ("base", "changes"),
    [
        (SENTENCES, {"train.optimizer": "adam", "train.weight_decay": 0}),
        (SENTENCES, {"data.messages": None, "data.subset": None, "data.buckets": 2}),
        # Evaluations are not packed.
        (SENTENCES, {"data.layout": "pack", "data.buckets": 4}),
        (SENTENCES, {"cache": {"codec": "topk", "k": 8}}),
        (TEXTS, {"cache": {"samples": 8, "seed": 2}}),
        (TEXTS, {"losses": "dense", "generate": {"examples": 3}}),
        (TEXTS, {"data.tokens_per_batch": 1024}),
        (IMAGES, {"data.shift": 1, "data.labels": ["a", "b"]}),
        (SENTENCES, {"student": {"layers": 2, "initialize_from": "finetuned"}}),
        (SENTENCES, {"student": {"heads": 2, "calibration_batches": 3}}),
    ],
)
def test_what_has_an_effect_or_asks_for_none_passes(base, changes):
    check(merged(base, changes))


@pytest.mark.parametrize("base", [IMAGES, TEXTS, SENTENCES])
def test_a_saved_config_holds_no_option_without_effect_and_reads_back_equal(base, tmp_path):
    training = {"train.optimizer": "adam"}
    objective = {"objective": {"soft": {"loss": "forward_kl"}, "hard": {"loss": "cross_entropy"}}}
    config = check(merged(base, training | objective))
    idle = list(idle_options(config))
    assert ("train", "no_decay") in [path for path, _ in idle]
    assert "beta" not in effective(config)["objective"]["soft"]
    path = tmp_path / "config.yaml"
    path.write_text(dump(config), encoding="utf-8")
    assert load_config(str(path)) == config


@pytest.mark.mostly_slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_decays_exactly_where_it_is_said_to(name):
    """Without a gradient, only decay moves a parameter."""
    values = {
        "train": {"optimizer": name, "learning_rate": 0.1, "warmup": 0, "schedule": "constant"}
    }
    train = check({**IMAGES, **values}).train
    params = {"student": {"kernel": jnp.full((4, 4), 2.0), "bias": jnp.full((4,), 2.0)}}
    optimizer = make_optimizer(train, params, 10)
    zero = {"student": {key: jnp.zeros_like(leaf) for key, leaf in params["student"].items()}}
    updates, _ = optimizer.update(zero, optimizer.init(params), params)
    after = optax.apply_updates(params, updates)["student"]
    assert bool((after["kernel"] < 2).all()) == (name in DECAYING)
    np.testing.assert_array_equal(after["bias"], params["student"]["bias"])


@pytest.mark.parametrize("option", ["learning_rate", "weight_decay", "mask", "weight_decay_mask"])
def test_what_has_a_key_of_its_own_is_no_option_of_the_optimizer(option):
    train = check(merged(IMAGES, {"train.optimizer_options": {option: 0.5}})).train
    with pytest.raises(ConfigError, match=rf"optimizer_options.{option}: .* give it there"):
        make_optimizer(train, {"student": {"kernel": jnp.ones((2, 2))}}, 10)
