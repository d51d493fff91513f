"""Machines by name, and refusals before anything is compiled."""

import importlib.util
from importlib import metadata

import pytest

from jaxdistill.errors import ConfigError
from jaxdistill.planning import topology
from jaxdistill.planning.chips import GIB, TPUS, chip_of


def test_shapes_are_read():
    assert topology.parse("v5e:16x16") == ("v5e", (16, 16))
    assert topology.parse("v5p:4x4x4") == ("v5p", (4, 4, 4))
    assert topology.parse("cpu:8") == ("cpu", (8,))
    assert topology.parse("gpu") == ("gpu", ())


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("v7:2x2", "v5e:16x16"),
        ("v6:2x2", "Did you mean 'v6e'"),
        ("v5e", "v5e:16x16"),
        ("v5e:2x2x2", "2 dimensions, one of v5e:1x1"),
        ("v5p:16x16", "3 dimensions"),
        ("v5e:3x3", "v5e:2x2"),
        ("v5e:axb", "v5e:16x16"),
        ("cpu:2x2", "cpu:4"),
        ("cpu:0", "cpu:8"),
    ],
)
def test_an_unknown_topology_is_refused_with_those_that_exist(name, named):
    with pytest.raises(ConfigError, match="topology: got") as refused:
        topology.open_topology(name)
    assert named in str(refused.value)


def test_more_devices_than_there_are_are_refused():
    with pytest.raises(ConfigError, match="8 devices are present, expected at most cpu:8"):
        topology.open_topology("cpu:9")


def test_without_libtpu_the_command_that_installs_it_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"not installed; pip install 'jax\[tpu\]'"):
        topology.open_topology("v5e:2x2")


@pytest.mark.parametrize(("installed", "refused"), [("0.0.52", True), ("0.0.42.1", False)])
def test_a_libtpu_that_jax_does_not_go_with_is_named(installed, refused, monkeypatch):
    versions = {"libtpu": installed, "jax": "0.10.2"}
    needs = ["numpy>=2.0", 'libtpu==0.0.42.*; extra == "tpu"']
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(metadata, "version", versions.__getitem__)
    monkeypatch.setattr(metadata, "requires", {"jax": needs}.__getitem__)
    reason = topology.missing_libtpu()
    if not refused:
        assert reason is None
        return
    assert reason is not None
    assert "libtpu 0.0.52 is installed and jax 0.10.2 goes with libtpu==0.0.42.*" in reason
    assert "pip install 'jax[tpu]'" in reason


def test_a_cpu_topology_takes_the_devices_at_hand():
    machine = topology.open_topology("cpu:4")
    assert (len(machine.devices), machine.chip.name) == (4, "cpu")


def test_chips_are_known_by_what_jax_calls_them():
    assert chip_of("TPU v5 lite", "tpu") is TPUS["v5e"]
    assert chip_of("NVIDIA H100 80GB HBM3", "gpu").name == "H100"
    assert chip_of("NVIDIA A100-SXM4-40GB", "gpu").hbm_bytes == 40 * 10**9
    assert chip_of("something new", "gpu").flops is None


@pytest.mark.parametrize(("name", "gib", "flops"), [("v5e", 16, 197e12), ("v5p", 96, 459e12)])
def test_figures_of_a_chip(name, gib, flops):
    chip = TPUS[name]
    assert chip.hbm_bytes is not None
    assert gib * 0.95 < chip.hbm_bytes / GIB < gib
    assert chip.flops == flops
