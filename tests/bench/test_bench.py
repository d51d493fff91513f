"""Times of a step: what they are made of, what is said of them, and what is refused."""

import dataclasses
import json
import time

import jax
import numpy as np
import pytest
from support import runs

from jaxdistill.bench import bench, table
from jaxdistill.bench import timing as bench_parts
from jaxdistill.cli import app as cli
from jaxdistill.config.load import check
from jaxdistill.errors import ConfigError, DataError
from jaxdistill.parallel.mesh import make_mesh
from jaxdistill.planning.account import account
from jaxdistill.planning.programs import make_program

SIZES = {
    "family": "bert",
    "vocab_size": 100,
    "hidden_size": 32,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}


def small(**sections):
    """A config whose data are nowhere."""
    return check(
        {
            "data": {"train": "nowhere.tsv", "max_length": 16, "labels": ["a", "b"]},
            "teacher": {"model": {**SIZES, "num_hidden_layers": 3}},
            "student": {"model": {**SIZES, "num_hidden_layers": 2}},
            **sections,
        }
    )


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A bench of a toy run, through the command line, with a trace."""
    folder = tmp_path_factory.mktemp("toy")
    path = runs.write_config(folder, teacher={"precompute": False}, data={"buckets": 1})
    options = ["--steps", "4", "--repeats", "2", "--trace", str(folder / "trace")]
    arguments = ["bench", path, "--workdir", str(folder / "work"), *options]
    assert cli.call([*arguments, "--json", str(folder / "bench.json")]) == 0
    return folder, json.loads((folder / "bench.json").read_text())


@pytest.mark.slow
def test_figures_go_together(measured):
    folder, found = measured
    assert found["program"] == "joint"
    assert found["shape"] == [16, 16]
    for timing, tokens in ((found["made_up"], 256), (found["loader"], None)):
        spots = timing["milliseconds"]
        assert 0 < spots["p10"] <= spots["p50"] <= spots["p90"]
        assert timing["steps"] == 8
        assert 0 < timing["examples_per_second"] <= 16e3 / spots["p10"]
        if tokens is not None:
            share = timing["tokens_per_second"] / timing["examples_per_second"]
            assert share == pytest.approx(tokens / 16)
    assert 0 < found["loader"]["padding"] < 1
    assert 0 <= found["loader"]["waiting"] < 1
    assert found["loader"]["first_seconds"] > 0
    assert found["compile_seconds"] > 0
    assert set(found["mfu"]) == {"teacher", "student"}
    assert 0 < sum(found["mfu"].values()) < 1
    step, floor = found["made_up"]["milliseconds"]["p50"], found["floor_milliseconds"]
    assert found["times_the_floor"] == pytest.approx(step / floor)
    # Where compute limits, the floor and the MFU say the same.
    assert 1 / found["times_the_floor"] == pytest.approx(sum(found["mfu"].values()), rel=0.05)
    assert found["peak"]["flops"] > 1e8
    assert "measured" in found["peak"]["source"]
    assert found["peak_source"] == "the compiler"
    assert list((folder / "trace").rglob("*.xplane.pb"))
    assert "not fine-tuned yet" in " ".join(found["notes"])


@pytest.mark.slow
@pytest.mark.parametrize("layers", [None, {0: 1, 1: 2}])
def test_the_step_that_is_timed_is_the_one_that_is_planned(layers):
    terms = {"soft": {"loss": "forward_kl"}}
    if layers is not None:
        terms["hidden"] = {"loss": "hidden_mse", "layers": layers}
    config = small(train={"batch_size": 16, "steps": 3}, objective=terms)
    mesh = make_mesh(2, fsdp=2, devices=jax.devices()[:4])
    program = make_program(config, mesh, "joint", apart=True)
    compiled = program.lower().compile()
    costs = account(program, compiled, mesh, bench_parts.topology_of(mesh))
    # Of a last layer that no loss reads, a classifier needs the first token only.
    assert costs.flops * costs.devices == pytest.approx(program.run_flops, rel=0.05)
    if layers is not None:
        return
    arguments = bench_parts.materialized(program.arguments, 100, 2)
    for shape, leaf in zip(*map(jax.tree.leaves, (program.arguments, arguments)), strict=True):
        assert leaf.sharding.is_equivalent_to(shape.sharding, leaf.ndim)
        assert (leaf.shape, leaf.dtype) == (shape.shape, shape.dtype)
    batch = arguments[2]
    assert batch["attention_mask"].min() == 1
    assert 0 <= batch["input_ids"].min() < batch["input_ids"].max() < 100
    assert set(np.asarray(batch["labels"])) == {0, 1}
    before = jax.device_get(arguments[0].params)
    times, (state, *_) = bench_parts.timed_made_up(compiled, arguments, 2)
    assert len(times) == 2
    assert int(state.step) == 2
    pairs = [*zip(*map(jax.tree.leaves, (before, state.params)), strict=True)]
    assert all(np.isfinite(new).all() for _, new in pairs)
    assert any((np.asarray(new) != old).any() for old, new in pairs)


def test_waiting_is_the_loaders_time_alone():
    def batches():
        for _ in range(3):
            time.sleep(0.03)
            yield 0, None

    def step(state, teacher, batch):
        time.sleep(0.06)
        return state + 1, np.zeros(1)

    times, state = bench_parts.timed_loader(step, 0, None, batches(), 3)
    assert state == 3
    for one in times:
        assert 0.03 <= one.waiting < one.seconds - 0.05


def test_noise_is_told():
    def timing(*medians):
        times = [[bench_parts.Step(seconds)] * 3 for seconds in medians]
        options = {"tokens_per_second": None, "examples_per_second": 1.0}
        return bench_parts.Timing(**bench_parts.percentiles(times), **options)

    assert timing(1.0, 1.0).milliseconds == {"p10": 1000, "p50": 1000, "p90": 1000}
    assert not bench._noise(0.1, timing(1.0, 1.02))
    assert bench._noise(0.1, timing(1.0, 1.1, 1.2)) == ["the medians of the repeats differ by 18 %"]
    assert "the machine is shared" in bench._noise(0.9, timing(1.0, 1.0))[0]


@pytest.mark.slow
def test_without_the_loader_nothing_but_the_config_is_needed(tmp_path):
    config = small(train={"batch_size": 8, "steps": 3}, parallel={"data": 1})
    with pytest.raises(DataError, match="nowhere"):
        bench.bench(config, tmp_path)
    found = bench.bench(config, tmp_path, steps=2, repeats=1, loader=False)
    assert found.loader is None
    assert found.program == "cached"  # what a run of this config does
    assert set(found.mfu) == {"student"}
    text = table.describe(dataclasses.replace(found, noise=("shared",)))
    assert "made-up batches of 8 x 16; teacher: its kept outputs" in text
    assert "times that" in text
    assert text.splitlines()[-1] == "noisy: shared"
    assert not list(tmp_path.iterdir())
    with pytest.raises(ConfigError, match="repeats: got 0, expected at least 1"):
        bench.bench(config, tmp_path, repeats=0)
