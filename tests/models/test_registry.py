"""Families by name, and models built of a spec."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import parity

from jaxdistill.errors import ModelError
from jaxdistill.modalities.registry import modalities
from jaxdistill.models.assembly import abstract
from jaxdistill.models.family import Options, config_from
from jaxdistill.models.hub.rules import flatten
from jaxdistill.models.registry import build_model, families, family_named

TEXT = sorted(parity.FIELDS)


def test_every_family_is_declared_once():
    for name, family in families().items():
        assert family.name == name
        assert family.paper
        assert family.modality in modalities()
        assert dataclasses.is_dataclass(family.config)


@pytest.mark.parametrize(
    ("name", "head"), [(name, head) for name in TEXT for head in family_named(name).architectures]
)
def test_rules_cover_every_parameter_once_and_axes_name_every_dimension(name, head):
    family = family_named(name)
    config = config_from(family, parity.FIELDS[name], {})
    _, shapes, state, axes = abstract(family, config, Options(head=head))
    assert state is None
    flat = flatten(shapes)
    rules = list(family.rules(config, Options(head=head)))
    assert sorted(rule.ours for rule in rules) == sorted(flat)
    assert len({(rule.theirs, rule.part) for rule in rules}) == len(rules)
    named = flatten(axes)
    assert named.keys() == flat.keys()
    known = {"layers", "embed", "mlp", "heads", "vocab", None}
    for path, shape in flat.items():
        assert len(named[path]) == len(shape.shape), path
        assert set(named[path]) <= known
        assert (named[path][0] == "layers") == path.startswith("layers/"), path


def test_parameters_depend_on_the_seed_alone():
    first, again, other = (
        build_model(parity.spec("bert"), num_labels=2, seed=seed) for seed in (0, 0, 1)
    )
    for path, leaf in flatten(first.params).items():
        np.testing.assert_array_equal(leaf, flatten(again.params)[path])
        if path.endswith(("kernel", "table")):
            assert np.abs(leaf - flatten(other.params)[path]).max() > 0, path
            assert 0.015 < np.asarray(leaf).std() < 0.025, path
    kernels = first.params["layers"]["up"]["kernel"]
    assert np.abs(kernels[0] - kernels[1]).max() > 0
    assert not np.asarray(first.params["embeddings"]["word"]["table"])[0].any()


def test_params_are_plain_nested_dicts():
    params = build_model(parity.spec("bert"), num_labels=2).params
    assert type(params) is dict
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(params))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ({}, {}, "expected 'family'"),
        ({"family": "brt"}, {}, "got 'brt'.*Did you mean 'bert'"),
        ({"family": "bert", "hiden_size": 8}, {}, "'hiden_size'.*Did you mean 'hidden_size'"),
        ({"family": "bert", "hidden_size": 8.5}, {}, "hidden_size: got 8.5, expected int"),
        (
            {"family": "bert", "layer_norm_eps": float("nan")},
            {},
            "bert.layer_norm_eps: got nan, expected finite numbers",
        ),
        (
            {"family": "gemma2", "final_logit_softcapping": float("inf")},
            {},
            "gemma2.final_logit_softcapping: got inf, expected finite numbers",
        ),
        ({"family": "bert", "layer_norm_eps": 10**400}, {}, "layer_norm_eps: got 1000"),
        (
            {"family": "llama", "rope_scaling": {"factor": float("nan")}},
            {},
            "rope_scaling: got {'factor': nan}, expected finite",
        ),
        ({"family": "bert", "hidden_size": True}, {}, "hidden_size: got True, expected int"),
        ({"family": "bert", "hidden_act": 3}, {}, "hidden_act: got 3, expected str"),
        ({"family": "bert"}, {"num_labels": None}, "num_labels: got None"),
        ({"family": "bert"}, {"head": "mlm"}, "head: got 'mlm'"),
    ],
)
def test_faulty_specs_are_named(spec, options, message):
    with pytest.raises(ModelError, match=message):
        build_model(spec, **{"num_labels": 2, **options})
