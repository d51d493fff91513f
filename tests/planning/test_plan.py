"""A plan against what the same config is once it runs, and what it refuses before compiling."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from support.plans import STUDENT, TEACHER, config

from jaxdistill.cli import app as cli
from jaxdistill.errors import ConfigError
from jaxdistill.models.registry import build_model
from jaxdistill.parallel.mesh import make_mesh
from jaxdistill.parallel.sharding import batch_shardings, place
from jaxdistill.planning import account, plan, topology
from jaxdistill.planning.chips import TPUS, Chip
from jaxdistill.planning.plan import parse_mesh
from jaxdistill.planning.programs import make_program
from jaxdistill.planning.table import describe
from jaxdistill.planning.topology import missing_libtpu
from jaxdistill.setup.assembly import assemble
from jaxdistill.setup.facts import Facts
from jaxdistill.setup.resolve import resolve


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(2, fsdp=4)


@pytest.fixture(scope="module")
def planned():
    return plan.plan(config(), "cpu:8", dense=False)


def on_first(tree):
    """Bytes that live arrays take on the first device."""
    first = jax.devices()[0]
    return sum(
        shard.data.size * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
        for shard in leaf.addressable_shards
        if shard.device == first
    )


@pytest.mark.slow
def test_bytes_are_those_of_the_executable_and_of_live_arrays(mesh, planned):
    wanted = config()
    student = build_model(STUDENT, remat=True, logits=False)
    teacher = build_model(TEACHER, dtype="bfloat16", logits=False)
    setup = resolve(wanted, wanted.train, Facts(), student, teacher, total_steps=10)
    teacher, joint = setup.teacher, assemble(setup, mesh)
    state, frozen = joint.start(student, 0)
    taught = place({"teacher": teacher.params}, joint.frozen_sharding.teachers)
    frozen = dataclasses.replace(frozen, teachers=taught)
    names = ("input_ids", "attention_mask", "segment_ids", "position_ids", "labels")
    batch = {name: jnp.ones((16, 32), jnp.int32) for name in names}
    batch |= {"loss_mask": jnp.ones((16, 32)), "weight": jnp.ones(16)}
    batch = place(batch, batch_shardings(batch, mesh))
    memory = planned.main.memory
    live = {
        "parameters": on_first(state.params),
        "optimizer": on_first((state.opt_state, state.step)) + 8,  # and the key
        "teacher": on_first(taught),
        "batch": on_first(batch),
    }
    assert {name: memory[name] for name in live} == live
    program = joint.compiled().lower(state, frozen, batch).compile()
    found = program.memory_analysis()
    assert sum(live.values()) == pytest.approx(found.argument_size_in_bytes, rel=0.1)
    total = found.argument_size_in_bytes + found.temp_size_in_bytes
    total += found.output_size_in_bytes - found.alias_size_in_bytes
    assert planned.main.peak_bytes == pytest.approx(total, rel=0.1)
    # With layers recomputed, what is kept is each layer's input: two rows of 32 tokens by 32.
    assert memory["activations"] == 2 * 2 * 32 * 32 * 4


def test_operations_are_those_of_an_analytic_count(planned):
    one = planned.main
    assert one.flops * one.devices == pytest.approx(one.run_flops, rel=0.05)
    # Counted by hand: a token's products with every kernel, the head, and the square of scores.
    tokens, length = 16 * 32, 32
    layer = {
        "teacher": 3 * (64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 128),
        "student": 2 * (32 * 64 * 2 + 32 * 32 * 2 + 3 * 32 * 96),
    }
    scores = {"teacher": 3 * 4 * length * 64, "student": 2 * 4 * length * 64}
    teacher = 2 * layer["teacher"] + scores["teacher"] + 2 * 64 * 256
    student = 4 * (2 * layer["student"] + scores["student"]) + 3 * 2 * 32 * 256
    assert one.run_flops == tokens * (teacher + student)
    # Useful are the scores of a token with itself and those before, and nothing that runs again.
    seen = (length + 1) / 2 / length
    teacher -= (1 - seen) * scores["teacher"]
    student = 3 * (2 * layer["student"] + seen * scores["student"] + 2 * 32 * 256)
    assert one.useful_flops == pytest.approx(tokens * (teacher + student))


def test_a_plan_as_json_and_as_text(planned, tmp_path):
    planned.write(tmp_path / "plan.json")
    found = json.loads((tmp_path / "plan.json").read_text())
    assert found["peak_bytes_per_device"] == pytest.approx(
        sum(found["breakdown"].values()), rel=0.1
    )
    assert (found["fits"], found["hbm_bytes_per_device"]) == (None, None)
    assert found["mesh"] == {"data": 2, "fsdp": 4, "sequence": 1, "tensor": 1}
    assert {"parameters", "optimizer", "teacher", "batch", "temporaries"} <= set(found["breakdown"])
    messages = found["programs"]["joint"]["messages"]
    assert {m["axes"] for m in messages if m["kind"] == "all-gather"} == {"fsdp"}
    text = describe(planned)
    assert "optimizer state" in text
    assert "MiB per chip" in text
    assert "mesh data=2 fsdp=4" in text


def test_the_cached_step_has_no_teacher_and_the_students_layers_may_be_its_own(mesh):
    wanted = config(student={"model": None, "layers": [0, 2]}, cache={"codec": "topk", "k": 4})
    program = make_program(wanted, mesh, "cached")
    assert program.held["teacher"] == 0
    live = make_program(wanted, mesh, "joint")
    # ids, levels and span of four classes, and the tail: for each of 64 tokens of a device
    assert program.held["batch"] - live.held["batch"] == 16 * 32 // 8 * (4 * 2 + 4 + 2 + 2)
    assert program.held["parameters"] == live.held["parameters"]
    layers = 2 * (64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 128 + 2 * 64 + 2 * 16)
    assert program.held["parameters"] * 4 / 4 == pytest.approx(
        4 * (layers + 2 * 64 * 256 + 64) / 4, rel=0.001
    )


@pytest.mark.slow
def test_a_student_that_writes_is_planned_with_the_tokens_it_writes(planned):
    def made(tokens):
        writes = {"share": 0.5, "prompt_tokens": 8, "max_new_tokens": tokens}
        return plan.plan(config(on_policy=writes), "cpu:8", dense=False).main

    few, many = made(4), made(8)
    # Each token is, in half of the steps, a forward pass of the student over a device's two rows.
    layers = 2 * (32 * 64 * 2 + 32 * 32 * 2 + 3 * 32 * 96)
    assert (many.flops - few.flops) / 4 == pytest.approx(2 * (layers + 32 * 256), rel=0.2)
    assert few.flops > planned.main.flops
    assert (few.useful_flops, few.mfu) == (None, None)


@pytest.mark.slow
def test_the_teachers_writing_is_planned_token_by_token(planned):
    wanted = config(generate={"batch_size": 8, "prompt_tokens": 8})
    found = plan.plan(wanted, "cpu:8", programs=["generate"], dense=False).main
    # The parameters of a step's teacher, in its compute type.
    assert found.memory["teacher"] == planned.main.memory["teacher"]
    assert found.tokens == 8 * (32 - 8)
    # One row on each device: its prompt at once, then token by token; the head for each token.
    layers, head = 3 * (64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 128), 64 * 256
    assert found.flops == pytest.approx(2 * (layers * (8 + 24 - 1) + head * 24), rel=0.15)


def test_a_teacher_takes_what_its_storage_and_its_place_leave_of_it(mesh):
    def held(**sections):
        return make_program(config(**sections), mesh, "joint").held["teacher"]

    usual = held()
    rounded = {"model": TEACHER, "dtype": "bfloat16", "storage": "int8"}
    assert 0.5 < held(teacher=rounded) / usual < 0.8  # tables and norms stay, and scales come
    parallel = {"data": 2, "fsdp": 4}
    assert held(parallel=parallel | {"teacher": "wide"}) == pytest.approx(usual / 2, rel=0.01)
    assert held(parallel=parallel | {"teacher": "whole"}) == pytest.approx(usual * 4, rel=0.02)
    assert held(parallel=parallel | {"teacher_memory": "host"}) == 0


@pytest.mark.parametrize(
    ("values", "arguments", "message"),
    [
        ({"train": {"batch_size": 12}}, {}, "expected a multiple of 8, e.g. 8 or 16"),
        (
            {"train": {"batch_size": 8, "accumulate": 4}},
            {},
            "expected train.batch_size a multiple of 32",
        ),
        ({}, {"mesh": "fsdp=1,tensor=8"}, r"expected one of \[1, 2, 4\]"),
        ({}, {"mesh": "fsdp=16"}, "expected at most 8"),
        ({}, {"mesh": "fsdp=3,data=-1"}, r"one of \[1, 2, 4, 8\]"),
        ({}, {"mesh": "data=1,sequence=8", "length": 36}, "data.max_length=32"),
        ({}, {"mesh": "rows=2"}, "expected sizes of .'data', 'fsdp'"),
        ({}, {"mesh": "data=two"}, "expected a whole number"),
        ({}, {"programs": ["finetune"]}, "no fine-tune to plan"),
        ({}, {"programs": ["joint", "evaluate"]}, "expected one of"),
        ({"generate": {"batch_size": 6}}, {"programs": ["generate"]}, "a multiple of 8"),
    ],
)
def test_what_cannot_work_is_refused_before_compiling(values, arguments, message, monkeypatch):
    monkeypatch.setattr(account, "_compile", lambda lowered: pytest.fail("compiled"))
    arguments = dict(arguments)
    if length := arguments.pop("length", None):
        values = values | {"data": {"train": "nowhere.jsonl", "max_length": length}}
    with pytest.raises(ConfigError, match=message):
        plan.plan(config(**values), "cpu:8", **arguments)


def test_the_command_refuses_in_one_line(capsys):
    assert cli.call(["plan", "qwen3_8b_to_0.6b", "--topology", "v9:2x2"]) == 2
    assert "expected one of ['v4', 'v5e', 'v5p', 'v6e', 'cpu', 'gpu']" in capsys.readouterr().err


def test_a_mesh_as_text():
    assert parse_mesh("data=16, fsdp=-1") == {"data": 16, "fsdp": -1}


@pytest.mark.slow
def test_the_smallest_change_that_fits_is_found_by_compiling(monkeypatch):
    one = {"num_hidden_layers": 1}
    wanted = config(
        teacher={"model": TEACHER | one},
        student={"model": STUDENT | one | {"hidden_size": 256, "intermediate_size": 4096}},
        train={"batch_size": 8, "steps": 10, "unroll": True, "remat": True},
        parallel={"data": 8, "fsdp": 1, "teacher": "wide"},
    )
    held = make_program(wanted, make_mesh(8), "joint").held
    most = int(1.4 * (held["parameters"] + held["optimizer"]))
    monkeypatch.setattr(topology, "CPU", dataclasses.replace(Chip("cpu"), hbm_bytes=most))
    found = plan.plan(wanted, "cpu:8", dense=False)
    assert found.fits is False
    assert found.change is not None
    assert found.change.overrides == ("parallel.data=-1", "parallel.fsdp=2")
    assert found.change.account.peak_bytes <= most < found.peak_bytes_per_device
    assert f"the smallest change that fits: {' '.join(found.change.overrides)}" in describe(found)


needs_libtpu = pytest.mark.skipif(missing_libtpu() is not None, reason=str(missing_libtpu()))


def of_the_benchmark(row, **sections):
    """A config whose loss alone is what a row of the benchmark measured, on four chips."""
    sizes = {"vocab_size": row["vocabulary"], "num_attention_heads": 16, "num_hidden_layers": 1}
    return config(
        data={"train": "nowhere.jsonl", "max_length": 64},
        teacher={"model": TEACHER | sizes | {"hidden_size": 4096}, "dtype": "bfloat16"},
        student={"model": STUDENT | sizes | {"hidden_size": 2048}},
        train={"batch_size": 4 * row["tokens"] // 64, "dtype": "bfloat16"},
        objective={
            "soft": {"loss": "forward_kl", "weight": 0.5, "temperature": 2.0},
            "hard": {"loss": "cross_entropy", "weight": 0.5},
        },
        **sections,
    )


def recorded(implementation):
    results = Path(__file__).parents[2] / "benchmarks" / "results" / "fused_loss.json"
    wanted = ("v5e", implementation, 2048)
    return next(
        row
        for row in json.loads(results.read_text())["rows"]
        if (row["platform"], row["implementation"], row["tokens"]) == wanted
    )


@needs_libtpu
def test_the_loss_alone_needs_what_its_benchmark_found():
    row = recorded("fused")
    wanted = of_the_benchmark(row)
    found = plan.plan(wanted, "v5e:2x2", mesh="data=4", programs=["loss"], dense=False).main
    assert found.memory["temporaries"] == row["temporary_bytes"]
    assert found.fits
    floor = found.useful_flops / found.devices / TPUS["v5e"].flops
    assert 1e3 * floor == pytest.approx(row["floor_milliseconds"])
    # Chunks of tokens overlap by less than 128 each.
    assert floor <= found.seconds["compute"] < 1.15 * floor
    with pytest.raises(ConfigError, match="leaves 3 of 4 chips of v5e:2x2 idle"):
        plan.plan(wanted, "v5e:2x2", mesh="data=1", programs=["loss"])


@needs_libtpu
def test_a_long_row_is_attended_in_blocks_on_tpu():
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 128}
    wanted = config(
        data={"train": "nowhere.jsonl", "max_length": 1024},
        teacher={"model": TEACHER | heads | {"max_position_embeddings": 1024}, "dtype": "bfloat16"},
        student={"model": STUDENT | heads | {"max_position_embeddings": 1024}},
        train={"batch_size": 4, "steps": 10, "remat": True, "dtype": "bfloat16"},
    )
    mesh = "data=2,fsdp=2"
    found = plan.plan(wanted, "v5e:2x2", mesh=mesh, dense=False, suggest=False).main
    whole = wanted.model_copy(
        update={"parallel": wanted.parallel.model_copy(update={"attention": "dense"})}
    )
    dense = plan.plan(whole, "v5e:2x2", mesh=mesh, dense=False, suggest=False).main
    for one in (found, dense):
        assert one.flops * one.devices == pytest.approx(one.run_flops, rel=0.05)
    assert found.useful_flops == dense.useful_flops
    assert found.flops < dense.flops


@needs_libtpu
def test_what_does_not_fit_says_by_how_much():
    row = recorded("dense")
    wanted = of_the_benchmark(row | {"tokens": 16 * row["tokens"]}, losses="dense")
    found = plan.plan(wanted, "v5e:2x2", mesh="data=4", programs=["loss"], suggest=False)
    assert found.fits is False
    # Four arrays of logits and gradients in two types, as at 2,048 tokens, 16 times as long.
    assert found.peak_bytes_per_device > 16 * row["floor_bytes"] > found.main.hbm_bytes
    assert "DOES NOT FIT" in describe(found)
