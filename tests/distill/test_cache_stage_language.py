"""Language models that learn from a cache: rows find their own, losses are the live ones."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.cli.app import call
from jaxdistill.config.load import load_config
from jaxdistill.data.batching.batch_source import train_batches
from jaxdistill.data.text.bpe import trained_tokenizer
from jaxdistill.distill import cache_stage
from jaxdistill.distill import models as build
from jaxdistill.errors import ConfigError
from jaxdistill.models.outputs import Head
from jaxdistill.models.registry import build_model, save_model
from jaxdistill.setup import objective as objectives
from jaxdistill.setup.codec import choose_codec
from jaxdistill.setup.facts import facts_of
from jaxdistill.setup.resolve import real_vocabulary
from jaxdistill.teachers import targets as precomputed
from jaxdistill.teachers.cache.codecs import Hidden, Sampled, TopK
from jaxdistill.teachers.cache.reader import open_cache
from jaxdistill.teachers.cache.writer import CacheWriter
from jaxdistill.teachers.identity import example_keys

WORDS = ["def", "return", "x", "y", "+", "(", ")", ":", "1", "2", "if", "else", "for", "in"]
VOCABULARY = 270


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> Path:
    """A folder with documents, a teacher and a student whose heads are padded, and a config."""
    folder = tmp_path_factory.mktemp("toy")
    random = np.random.default_rng(0)
    texts = []
    for _ in range(16):
        places = np.cumsum(random.choice([1, 3], random.integers(5, 60)))
        texts.append(" ".join(WORDS[place % len(WORDS)] for place in places))
    lines = [json.dumps({"text": text}) for text in texts]
    (folder / "corpus.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    tokenizer = trained_tokenizer(texts, vocabulary=VOCABULARY, folder=folder / "tokenizer")
    sizes = {"family": "gpt2", "n_layer": 1, "n_head": 2, "n_positions": 32}
    for seed, (name, width) in enumerate((("teacher", 32), ("student", 16))):
        spec = {**sizes, "n_embd": width, "vocab_size": VOCABULARY + 8 * seed + 2}
        model = build_model(spec, seed=seed)
        model.params["embeddings"]["word"]["table"] *= 20.0  # a teacher with opinions
        save_model(folder / name, model, tokenizer_from=tokenizer)
    training = {"steps": 2, "batch_size": 4, "learning_rate": 1e-3, "evaluate_every": 2}
    config = {
        "name": "toy",
        "task": "language_model",
        "seeds": [0],
        "data": {"train": str(folder / "corpus.jsonl"), "max_length": 32, "eval_batch_size": 4},
        "teacher": {"model": str(folder / "teacher")},
        "student": {"model": str(folder / "student")},
        "finetune": None,
        "train": training,
        "telemetry": {"progress": "none"},
        "parallel": {"data": 1, "compilation_cache": False},
    }
    (folder / "toy.yaml").write_text(json.dumps(config), encoding="utf-8")
    return folder


def parts(toy, folder, *overrides):
    config = load_config(str(toy / "toy.yaml"), overrides)
    return config, build.load_data(config, folder)


@pytest.mark.slow
def test_every_row_finds_what_was_said_of_it(toy, tmp_path):
    """Hidden states made of a row's own tokens: any batch can be checked by itself."""
    config, dataset = parts(toy, tmp_path)
    split = dataset.train
    length = split.labels.shape[1]
    head = Head(jnp.eye(2))
    inside = np.arange(length) < split.lengths[:, None]
    said = np.zeros((len(split), length, 2), np.float32)
    said[inside] = np.stack(
        [split.inputs.tokens, np.concatenate([np.arange(n) for n in split.lengths])], -1
    )
    keys, first = np.unique(example_keys(split), return_index=True)
    assert len(keys) == len(split)
    with CacheWriter(tmp_path / "cache", Hidden("float32"), head=head) as writer:
        writer.write(keys[::-1], said[first[::-1]], where=inside[first[::-1]])
    targets = precomputed.from_cache(open_cache(tmp_path / "cache"), split)
    assert targets.classes == 2
    source = precomputed.with_targets(
        train_batches(split, batch_size=4, seed=3, config=config.data), targets
    )
    seen = 0
    for step in range(2 * len(source)):
        batch = source[step]
        mask = batch["attention_mask"] > 0
        expected = np.stack(
            [batch["input_ids"], np.broadcast_to(np.arange(length), mask.shape)], -1
        )
        np.testing.assert_array_equal(batch["teacher_hidden"][mask], expected[mask])
        np.testing.assert_array_equal(batch["teacher_hidden"][~mask], 0)
        seen += int(batch["weight"].sum())
    assert seen == 2 * len(split)
    assert len(set(example_keys(split).tolist())) == len(split)


@pytest.mark.mostly_slow
@pytest.mark.parametrize("losses", ["fused", "dense"])
@pytest.mark.parametrize(
    ("codec", "tolerance"),
    [("hidden", 1e-2), ("topk", 1e-2), ("sampled", 3e-2), ("exact", 1e-5)],
)
def test_a_cache_gives_the_live_loss(toy, tmp_path, codec, tolerance, losses):
    """All classes are kept, so that what is left is rounding; heads are padded differently."""
    exact, codec = codec == "exact", "hidden" if codec == "exact" else codec
    if codec == "hidden" and losses == "dense":
        return
    sizes = {"topk": [f"cache.k={VOCABULARY}"], "sampled": [f"cache.samples={VOCABULARY}"]}
    sizes = [*sizes.get(codec, []), f"cache.codec={codec}"]
    sizes += ["cache.dtype=float32"] if exact else []
    config, dataset = parts(
        toy,
        tmp_path,
        *sizes,
        f"losses={losses}",
        "objective.hard.weight=0.3",
        "objective.hard.loss=cross_entropy",
        "objective.soft.loss=forward_kl",
    )
    teacher = build.load_teacher(config, dataset, training=False, seed=0)
    # Layers that a rounding of their kernels would show in.
    louder = jax.tree.map(lambda leaf: 10 * leaf, teacher.params["layers"])
    teacher = dataclasses.replace(teacher, params={**teacher.params, "layers": louder})
    student = build.make_student(config, dataset, None, seed=0)
    found = cache_stage.write(config, dataset, teacher, tmp_path / "cache", {"teacher": "t"})
    assert found["tokens"] == dataset.train.lengths.sum()
    assert found["width"] == (32 if codec == "hidden" else VOCABULARY)
    targets = precomputed.from_cache(open_cache(tmp_path / "cache"), dataset.train)
    source = precomputed.with_targets(
        train_batches(dataset.train, batch_size=4, seed=0, config=config.data), targets
    )
    batch = source[0]
    said = jax.jit(student.apply)(student.params, batch)

    def means(teacher_outputs, codec, columns):
        facts, ours = facts_of(config, dataset), student.config.vocab_size
        vocabulary = real_vocabulary(config, facts, ours, columns)
        objective = objectives.distillation_objective(
            config, 1, set(), codec, vocabulary=vocabulary
        )

        def told(said, heard, batch):
            every = objective.means(said, heard, batch, step=jnp.int32(0))
            return {name: mean.value() for name, mean in every.items()}

        return jax.jit(told)(said, teacher_outputs, batch)

    spoken = jax.jit(teacher.apply)(teacher.params, batch)
    live = means(spoken, None, teacher.config.vocab_size)
    heard = jax.jit(precomputed.make_apply(targets.codec))(targets.head, batch)
    ours = means(heard, targets.codec, targets.classes)
    assert ours.keys() == live.keys()
    assert float(live["soft"]) > 0.1
    for name, value in live.items():
        np.testing.assert_allclose(ours[name], value, rtol=tolerance, err_msg=name)


@pytest.mark.slow
def test_a_teacher_that_is_shared_by_the_devices_says_the_same(toy, tmp_path, monkeypatch):
    said, held = {}, {}
    speaker = cache_stage._speaker

    def watched(*arguments):
        speak, params, head = speaker(*arguments)
        kernel = params["layers"]["attention"]["query"]["kernel"]
        held[name] = kernel.addressable_shards[0].data.size / kernel.size
        return speak, params, head

    monkeypatch.setattr(cache_stage, "_speaker", watched)
    layouts = {
        "whole": ["parallel.data=8"],
        "shared": ["parallel.data=2", "parallel.fsdp=2", "parallel.tensor=2"],
        "wide": ["parallel.data=4", "parallel.fsdp=2", "parallel.teacher=wide"],
    }
    for name, layout in layouts.items():
        codec = ["cache.codec=hidden", "cache.dtype=float32"]
        config, dataset = parts(toy, tmp_path, *codec, *layout)
        teacher = build.load_teacher(config, dataset, training=False, seed=0)
        path = tmp_path / name
        cache_stage.write(config, dataset, teacher, path, {"teacher": "t"})
        targets = precomputed.from_cache(open_cache(path), dataset.train)
        source = precomputed.with_targets(
            train_batches(dataset.train, batch_size=4, seed=0, config=config.data), targets
        )
        said[name] = source[0]["teacher_hidden"]
    assert held == {"whole": 1.0, "shared": 0.25, "wide": 0.125}
    for name in ("shared", "wide"):
        np.testing.assert_allclose(said[name], said["whole"], rtol=1e-5, atol=1e-5)


def test_the_codec_fits_the_task(toy):
    path = str(toy / "toy.yaml")
    assert choose_codec(load_config(path)) == Sampled()
    assert choose_codec(load_config(path, ["cache.codec=topk"])) == TopK(64)
    assert choose_codec(load_config(path, ["cache.codec=hidden"])) == Hidden()
    for overrides, expected in (
        (["cache.codec=full"], "got 'full' for language_model"),
        (["cache.codec=hidden", "losses=dense"], "expected 'fused'"),
        (["objective.soft.loss=reverse_kl"], "'reverse_kl' with the codec sampled"),
    ):
        with pytest.raises(ConfigError, match=expected):
            choose_codec(load_config(path, overrides))


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["sampled", "hidden"])
def test_a_student_learns_without_the_teachers_weights(toy, tmp_path, capsys, codec):
    config, work = str(toy / "toy.yaml"), str(tmp_path / "work")
    learns = ["finetune={steps: 40, batch_size: 8, learning_rate: 1e-2}", f"cache.codec={codec}"]
    assert call(["cache", config, *learns, "--workdir", work]) == 0
    taught = tmp_path / "work" / "finetune" / "model"
    (taught / "model.safetensors").unlink()
    sources = [f"teacher.model={taught}", f"teacher.cache={work}/cache"]
    code = call(["distill", config, *sources, "--workdir", str(tmp_path / "other")])
    told = capsys.readouterr().err
    assert code == 0, told
    assert "not at hand to compare" in told
    rows = (tmp_path / "other" / "distill" / "seed-0" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(rows[-1])["event"] == "evaluation"
    assert call(["cache", "--inspect", f"{work}/cache"]) == 0
    assert codec in capsys.readouterr().out
