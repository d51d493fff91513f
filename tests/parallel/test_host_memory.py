"""Models wait in the host's memory: no device holds one whole that is to be shared."""

import json

import jax
import numpy as np
import pytest
from support import runs

from jaxdistill.cli import app as cli
from jaxdistill.config.load import load_config
from jaxdistill.distill import models as build
from jaxdistill.parallel import host_memory
from jaxdistill.parallel.mesh import make_mesh
from jaxdistill.setup.assembly import assemble
from jaxdistill.setup.facts import facts_of
from jaxdistill.setup.resolve import resolve


@pytest.fixture
def elsewhere(monkeypatch):
    """The last device stands for the host: nothing else here puts anything there."""
    place = jax.devices()[-1]
    monkeypatch.setattr(host_memory, "device", lambda: place)
    return place


def devices_of(tree) -> set:
    return {device for leaf in jax.tree.leaves(tree) for device in leaf.devices()}


def test_models_wait_there_and_states_do_not(elsewhere, tmp_path):
    config = load_config(runs.write_config(tmp_path), ["parallel.data=2", "parallel.fsdp=2"])
    dataset = build.load_data(config, tmp_path / "data")
    teacher = build.load_teacher(config, dataset, training=False, seed=0)
    student = build.make_student(config, dataset, None, 0)
    mesh = make_mesh(2, fsdp=2, devices=jax.devices()[:4])
    facts = facts_of(config, dataset)
    setup = resolve(config, config.train, facts, student, teacher, total_steps=3)
    assert setup.teacher is not None
    assert devices_of((teacher.params, student.params, setup.teacher.params)) == {elsewhere}
    state, _ = assemble(setup, mesh).start(student, 0)
    assert devices_of(state) == set(mesh.devices.flat)


@pytest.mark.slow
def test_a_run_is_the_same(tmp_path, monkeypatch):
    config = runs.write_config(
        tmp_path / "toy",
        train={"steps": 3, "batch_size": 16, "learning_rate": 1e-3},
        telemetry={"log_every": 1, "progress": "none"},
        finetune=None,
    )
    losses = []
    for place in (None, jax.devices()[-1]):
        monkeypatch.setattr(host_memory, "device", lambda place=place: place)
        folder = tmp_path / f"{place is None}"
        arguments = [config, "teacher.precompute=false", "--workdir", str(folder)]
        assert cli.call(["distill", *arguments]) == 0
        rows = (folder / "distill" / "seed-0" / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(row)["loss"] for row in rows])
    assert len(losses[0]) >= 3
    np.testing.assert_array_equal(*losses)
