"""A run that keeps its teacher on disk: the same training, without the teacher; refused by name."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import runs
from support.setups import LABELS, WORDS, save_tokenizer

from jaxdistill.cli.app import call
from jaxdistill.config.load import load_config
from jaxdistill.config.schema import TrainConfig
from jaxdistill.data.batching.batch_source import train_batches
from jaxdistill.distill import cache_stage, stages
from jaxdistill.distill import models as build
from jaxdistill.distill.trainer import make_trainer
from jaxdistill.errors import CacheError, ConfigError, Preempted
from jaxdistill.models.outputs import Outputs
from jaxdistill.models.registry import load_model
from jaxdistill.runtime import preemption
from jaxdistill.setup import objective
from jaxdistill.setup.codec import choose_codec
from jaxdistill.teachers import targets as precomputed
from jaxdistill.teachers.cache.codecs import Full, TopK, encode, token_keys
from jaxdistill.teachers.cache.reader import open_cache
from jaxdistill.teachers.cache.writer import CacheWriter
from jaxdistill.teachers.identity import example_keys, teacher_hash

TRAIN = {"steps": 6, "batch_size": 16, "learning_rate": 3e-3, "dropout": 0.0, "keep": "last"}
TEACHER = {"epochs": 15, "batch_size": 16, "learning_rate": 1e-2}
STUDENT = {"hidden_size": 8, "num_hidden_layers": 1, "intermediate_size": 16}


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> Path:
    """A folder with a config whose student has weights of its own, and a cache of its teacher."""
    folder = tmp_path_factory.mktemp("toy")
    config = runs.write_config(folder, finetune=TEACHER, data={"buckets": 1})
    stages.run(load_config(config), folder / "teaching", until="finetune")
    shutil.rmtree(folder / "teacher")
    (folder / "teaching" / "finetune" / "model").rename(folder / "teacher")
    student = runs.write_teacher(folder / "student", seed=1, **STUDENT)
    values = json.loads(Path(config).read_text())
    values |= {"finetune": None, "train": TRAIN, "student": {"model": student}}
    Path(config).write_text(json.dumps(values))
    assert call(["cache", str(folder / "toy.yaml"), "--workdir", str(folder / "work")]) == 0
    return folder


@pytest.fixture
def own(toy, tmp_path) -> Path:
    """A copy of the folder, to damage."""
    shutil.copytree(toy, tmp_path / "own")
    text = (toy / "toy.yaml").read_text().replace(str(toy), str(tmp_path / "own"))
    (tmp_path / "own" / "toy.yaml").write_text(text)
    return tmp_path / "own"


def distil(folder: Path, *overrides: str) -> Path:
    workdir = folder / f"distilled-{len(list(folder.iterdir()))}"
    stages.run(load_config(str(folder / "toy.yaml"), overrides), workdir, until="distill")
    return workdir / "distill" / "seed-0" / "model"


def refused(capsys, folder: Path, *overrides: str) -> str:
    """Distil from the cache, which must be refused, and return the one line that says why."""
    arguments = ["--workdir", str(folder / "refused"), f"teacher.cache={folder / 'work' / 'cache'}"]
    return runs.refused(capsys, ["distill", str(folder / "toy.yaml"), *arguments, *overrides])


@pytest.mark.slow
def test_a_cache_teaches_what_the_teacher_does_without_its_weights(own, capsys):
    live = load_model(distil(own, "teacher.precompute=false"))
    (own / "teacher" / "model.safetensors").unlink()
    folder = distil(own, f"teacher.cache={own / 'work' / 'cache'}")
    assert "not at hand to compare" in capsys.readouterr().err
    cached = load_model(folder)
    for name in ("head", "layers"):
        ours, theirs = (np.asarray(flat(model.params[name])) for model in (cached, live))
        np.testing.assert_allclose(ours, theirs, atol=2e-5)
    with pytest.raises(Exception, match=r"model\.safetensors"):
        distil(own)  # a live teacher does need them


def flat(tree) -> list[float]:
    if isinstance(tree, dict):
        return [value for name in sorted(tree) for value in flat(tree[name])]
    return np.asarray(tree).ravel().tolist()


@pytest.mark.slow
def test_a_run_that_asks_for_a_cache_writes_and_reads_it(own, capsys):
    folder = distil(own, "cache.codec=topk", "cache.k=2")
    workdir = folder.parents[2]
    assert open_cache(workdir / "cache").codec == TopK(2, temperature=2.0)
    assert json.loads((workdir / "cache" / "result.json").read_text())["examples"] > 0
    assert "throughput" in capsys.readouterr().err


@pytest.mark.mostly_slow
@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["teacher.dtype=bfloat16"], "dtype: got 'float32', expected 'bfloat16'"),
        (["teacher.pooling=mean"], "pooling: got 'default', expected 'mean'"),
        (["objective={h: {loss: hidden_mse, layers: {0: 0}}}"], "objective.h reads the teacher's"),
        (["teacher.cache=nowhere"], "nowhere: got no manifest.json"),
    ],
)
def test_settings_that_do_not_match_are_refused(toy, capsys, overrides, expected):
    assert expected in refused(capsys, toy, *overrides)


def test_another_teacher_is_refused(toy, tmp_path, capsys):
    other = runs.write_teacher(tmp_path / "other", seed=7)
    line = refused(capsys, toy, f"teacher.model={other}")
    assert "1 field does not match: teacher: got '" in line


def test_another_tokenizer_is_refused(toy, tmp_path, capsys):
    other = shutil.copytree(toy / "teacher", tmp_path / "other")
    save_tokenizer(other, [*WORDS[:-2], WORDS[-1], WORDS[-2]])
    overrides = [f"teacher.model={other}", f"student.model={other}"]
    assert "1 field does not match: tokenizer: got '" in refused(capsys, toy, *overrides)


def test_a_student_with_another_tokenizer_is_refused_with_counts(toy, tmp_path, capsys):
    other = shutil.copytree(toy / "student", tmp_path / "other")
    save_tokenizer(other, [*WORDS[:-2], WORDS[-1], WORDS[-2]])
    line = refused(capsys, toy, f"student.model={other}")
    assert f"2 of {len(WORDS)} tokens have another id" in line


def test_other_data_is_refused_and_a_part_of_it_is_not(toy, tmp_path, capsys):
    more = runs.write_sentences(tmp_path / "more.tsv", 100, seed=5)
    line = refused(capsys, toy, f"data.train={more}")
    assert "data: got outputs for" in line
    assert "examples are not there" in line
    config = load_config(str(toy / "toy.yaml"), ["data.train_examples=20"])
    dataset = build.load_data(config, tmp_path)
    of = cache_stage.identity(config, dataset, None)
    assert cache_stage.read(config, dataset, toy / "work" / "cache", of)


@pytest.mark.slow
def test_damage_is_named(own, capsys):
    (shard,) = (own / "work" / "cache" / "shards").glob("*.safetensors")
    whole = shard.read_bytes()
    flipped = bytearray(whole)
    flipped[-5] ^= 1  # in the logits, which are looked at last
    for damaged, expected in (
        (bytes(flipped), "SHA-256"),
        (whole[:-1], "truncated"),
        (None, "missing"),
    ):
        shard.unlink()
        if damaged is not None:
            shard.write_bytes(damaged)
        line = refused(capsys, own)
        assert shard.name in line
        assert expected in line
    (own / "work" / "cache" / "manifest.json").unlink()
    assert "the cache is not complete" in refused(capsys, own)


def test_a_codec_that_does_not_hold_the_objective_is_refused(toy, tmp_path):
    dense = "objective={soft: {loss: mse_logits}}"
    heat = "objective={a: {loss: forward_kl}, b: {loss: reverse_kl, temperature: 2}}"
    path = str(toy / "toy.yaml")
    for overrides, expected in (
        (["cache.codec=topk", dense], r"objective\.soft\.loss: got 'mse_logits'"),
        (["cache.codec=topk", heat], r"got terms at the temperatures"),
        (["cache.codec=sampled", heat], r"expected one"),
        (["cache.codec=hidden"], r"cache\.codec: got 'hidden'"),
    ):
        with pytest.raises(ConfigError, match=expected):
            choose_codec(load_config(path, overrides))
    config = load_config(path, ["cache.codec=topk", "objective.soft={loss: jsd, temperature: 3}"])
    assert choose_codec(config) == TopK(64, 3.0)


@pytest.mark.mostly_slow
@pytest.mark.parametrize("codec", ["full", "topk", "sampled"])
@pytest.mark.parametrize("loss", ["forward_kl", "jsd", "total_variation"])
def test_a_codec_that_leaves_nothing_out_gives_the_live_loss(toy, codec, loss):
    """Two classes of two are kept: what is left is rounding."""
    if codec == "sampled" and loss != "forward_kl":
        return
    term = f"objective={{soft: {{loss: {loss}, temperature: 3}}, hard: {{loss: cross_entropy}}}}"
    sizes = {"full": [], "topk": ["cache.k=2"], "sampled": ["cache.samples=2"]}[codec]
    sizes = [*sizes, f"cache.codec={codec}"]
    config = load_config(str(toy / "toy.yaml"), [term, *sizes])
    chosen = choose_codec(config)
    generator = np.random.default_rng(0)
    student, teacher = generator.normal(0, 2, (2, 8, 2)).astype(np.float32)
    fields = encode(chosen, teacher, token_keys(0, np.arange(8), np.zeros(8)))
    batch = {"labels": np.arange(8) % 2, "weight": np.ones(8, np.float32)}
    stored = {f"{precomputed.PREFIX}{name}": field for name, field in fields.items()}
    outputs = precomputed.make_apply(chosen)(None, {**batch, **stored})
    step = jnp.int32(0)
    ours = objective.distillation_objective(config, 1, set(), chosen).means(
        Outputs(logits=jnp.asarray(student)), outputs, batch, step=step
    )
    live = objective.distillation_objective(config, 1, set()).means(
        Outputs(logits=jnp.asarray(student)), Outputs(logits=jnp.asarray(teacher)), batch, step=step
    )
    assert ours.keys() == live.keys()
    for name, mean in live.items():
        np.testing.assert_allclose(ours[name].value(), mean.value(), rtol=2e-2)


@pytest.mark.slow
def test_a_writer_that_is_stopped_goes_on(toy, tmp_path, monkeypatch):
    config = load_config(str(toy / "toy.yaml"))
    dataset = build.load_data(config, tmp_path / "data")
    teacher = build.load_teacher(config, dataset, training=False, seed=0)
    of = cache_stage.identity(config, dataset, None)
    asked = iter([False, False, True])
    monkeypatch.setattr(preemption, "asked", lambda: next(asked, False))
    path = tmp_path / "cache"
    with pytest.raises(Preempted, match="run the same command to go on"):
        cache_stage.write(config, dataset, teacher, path, of)
    with pytest.raises(CacheError, match="not complete"):
        open_cache(path)
    (before,) = (path / "shards").iterdir()
    stamp = before.stat().st_mtime_ns
    found = cache_stage.write(config, dataset, teacher, path, of)
    assert before.stat().st_mtime_ns == stamp
    assert found["shards"] == 2
    assert found["examples"] == np.unique(example_keys(dataset.train)).size
    assert found["reconstruction_kl"] < 1e-6


@pytest.mark.parametrize("layout", ["bucket", "pack"])
def test_every_example_finds_what_was_said_of_it(toy, tmp_path, layout):
    """Logits made of an example's own tokens: any batch can be checked by itself."""
    config = load_config(str(toy / "toy.yaml"), [f"data.layout={layout}"])
    split = build.load_data(config, tmp_path / "data").train
    sums = np.add.reduceat(split.inputs.tokens, split.inputs.offsets[:-1])
    said = np.stack([sums, split.lengths], -1).astype(np.float32)
    keys, first = np.unique(example_keys(split), return_index=True)
    with CacheWriter(tmp_path / "cache", Full()) as writer:
        writer.write(keys[::-1], said[first[::-1]])
    targets = precomputed.from_cache(open_cache(tmp_path / "cache"), split)
    source = precomputed.with_targets(
        train_batches(split, batch_size=16, seed=3, config=config.data), targets
    )
    seen = 0
    for step in range(2 * len(source)):
        batch = source[step]
        mask = batch["attention_mask"] > 0
        for row in np.flatnonzero(batch["weight"]):
            ids = batch["input_ids"][row][mask[row]] if layout == "bucket" else None
            if ids is None:
                place, column = batch["pool_rows"][row], batch["pool_columns"][row]
                segment = batch["segment_ids"][place]
                ids = batch["input_ids"][place][segment == segment[column]]
            relative = np.array([ids.sum(), ids.size]) - max(ids.sum(), ids.size)
            np.testing.assert_array_equal(batch["teacher_logits"][row], relative)
            seen += 1
    assert seen == 2 * len(split)


def test_keys_depend_on_the_example_alone(toy, tmp_path):
    config = load_config(str(toy / "toy.yaml"))
    split = build.load_data(config, tmp_path).train
    keys = example_keys(split)
    rows = np.array([5, 3, 11])
    from jaxdistill.data.split import take_examples

    np.testing.assert_array_equal(example_keys(take_examples(split, rows)), keys[rows])
    texts = dict(zip(split.texts[0], keys.tolist(), strict=True))
    assert len(set(texts.values())) == len(texts) == len(set(keys.tolist()))
    assert keys.min() >= 0


def test_a_teacher_is_known_by_its_tensors(tmp_path):
    folder = Path(runs.write_teacher(tmp_path / "one"))
    whole = teacher_hash(folder, 0)
    from jaxdistill.models.registry import save_model

    save_model(tmp_path / "many", load_model(folder), shard_bytes=2000)
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 1
    assert teacher_hash(tmp_path / "many", 0) == whole
    assert teacher_hash(runs.write_teacher(tmp_path / "other", seed=1), 0) != whole
    next((tmp_path / "many").glob("*.safetensors")).unlink()
    assert teacher_hash(tmp_path / "many", 0) is None
    assert teacher_hash({"family": "cnn"}, 0) != teacher_hash({"family": "cnn"}, 1)


def test_inspection_and_usage(toy, capsys):
    assert call(["cache", "--inspect", str(toy / "work" / "cache")]) == 0
    printed = capsys.readouterr().out
    for word in ("full dtype=float32", "bytes per token", "nats over", "tokens per second"):
        assert word in printed
    assert call(["cache"]) == 2
    assert "expected one of them" in capsys.readouterr().err
    assert call(["cache", "--inspect", str(toy)]) == 2
    assert "got no manifest.json" in capsys.readouterr().err


def test_a_trainer_with_a_cache_has_no_teacher_parameters(toy, tmp_path):
    config = load_config(str(toy / "toy.yaml"))
    dataset = build.load_data(config, tmp_path)
    student = build.make_student(config, dataset, None, seed=0)
    cache = open_cache(toy / "work" / "cache")
    few = TrainConfig(**{**TRAIN, "examples": 30})
    trainer = make_trainer(config, few, dataset, student, stage="distill", teacher=cache)
    assert not jax.tree.leaves(trainer.start(trainer.layout.lay_out(student), 0).frozen)
    batch = trainer.make_source(1)[0]
    teacher = build.load_teacher(config, dataset, training=False, seed=0)
    used = trainer.layout.used_ids
    ids = {**batch, "input_ids": used[batch["input_ids"]]} if used is not None else batch
    live = jax.jit(teacher.apply)(teacher.params, ids).logits
    np.testing.assert_allclose(
        batch["teacher_logits"], live - live.max(-1, keepdims=True), atol=1e-5
    )
    assert len(LABELS) == live.shape[-1]
