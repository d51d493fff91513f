"""What each codec of the teacher cache costs and keeps, with GPT-2's vocabulary of 50,257.

The teacher is a head over random hidden states: logits of a Zipf law over the classes plus what the
state says, about 4 nats of entropy, a few hidden channels fifty times the others. The student's
logits are the teacher's with noise. For each codec:

- bytes per token of whole shard files, and tokens per second of encoding, writing and reading;
- reconstruction KL in nats, as `jaxdistill.teachers.cache.quality` defines it for the codec;
- the bias of the gradient to the student's logits (length of its mean error) and the noise (its
  standard deviation over draws), relative to the length of the full gradient, beside those of
  top-k renormalized and of draws with replacement in as many bytes;
- time of a whole training step of a GPT-2 student, relative to one with plain cross-entropy.

At last a student learns from a live teacher and from each codec, three seeds each, on a part of the
standard library's source; its loss on held-out text is in nats per token.

    python benchmarks/teacher_cache.py --json teacher_cache.json
"""

from __future__ import annotations

import functools
import json
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import common
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdistill import losses
from jaxdistill.config.load import load_config
from jaxdistill.distill import stages
from jaxdistill.engine.objective import Objective
from jaxdistill.engine.state import TrainState
from jaxdistill.engine.step import make_train_step
from jaxdistill.engine.terms_cached import StoredLoss, stored_tokens_term
from jaxdistill.engine.terms_fused import TokenLoss, fused_term
from jaxdistill.models.outputs import Head
from jaxdistill.models.registry import build_model
from jaxdistill.teachers.cache import codecs
from jaxdistill.teachers.cache.codecs import Full, Hidden, Sampled, TopK
from jaxdistill.teachers.cache.reader import inspect, open_cache
from jaxdistill.teachers.cache.writer import CacheWriter
from jaxdistill.teachers.targets import PREFIX, make_apply

VOCABULARY, WIDTH, SEQUENCE = 50_257, 256, 128
PARTS = ("codecs", "gradients", "steps", "training")
CODECS = (
    TopK(64),
    Sampled(),
    Hidden("int8"),
    Hidden("float8_e4m3fn"),
    Hidden("bfloat16"),
    Full("bfloat16"),
)


def teacher(tokens: int) -> tuple[np.ndarray, Head]:
    """Return hidden states [N, D] and the head over them."""
    generator = np.random.default_rng(0)
    hidden = generator.normal(0, 1, (tokens, WIDTH)).astype(np.float32)
    weights = generator.normal(0, 2.2 / np.sqrt(WIDTH), (WIDTH, VOCABULARY)).astype(np.float32)
    hidden[:, :3] *= 50
    weights[:3] /= 50
    zipf = -1.1 * np.log(generator.permutation(VOCABULARY) + 1.0)
    return hidden, Head(jnp.asarray(weights), jnp.asarray(zipf, jnp.float32))


def logits_of(hidden: np.ndarray, head: Head) -> np.ndarray:
    """Return the logits float32 [N, V]."""
    assert head.bias is not None
    return np.asarray(hidden @ head.weights + head.bias)


def stored(codec: codecs.Codec, hidden: np.ndarray, head: Head, folder: Path) -> dict[str, Any]:
    """Write a cache in batches of sequences, read it back in another order; return its figures."""
    is_hidden = isinstance(codec, Hidden)
    path = folder / "cache"
    examples = np.arange(len(hidden) // SEQUENCE)
    with CacheWriter(
        path, codec, {"teacher": "random"}, head=head if is_hidden else None
    ) as writer:
        for example in examples:
            rows = hidden[example * SEQUENCE :][:SEQUENCE]
            values = rows if is_hidden else logits_of(rows, head)
            writer.write(np.array([example]), values, lengths=np.array([SEQUENCE]))
    cache = open_cache(path)
    order = np.random.default_rng(0).permutation(examples)
    start = time.perf_counter()
    for example in order:
        cache.read([example])
    reading = time.perf_counter() - start
    found = inspect(path)
    keys = ("tokens", "bytes_per_token", "field_bytes_per_token", "reconstruction_kl")
    return {
        **{key: found[key] for key in keys},
        "tokens_per_second_writing": found["tokens_per_second_writing"],
        "tokens_per_second_reading": len(hidden) / reading,
    }


def gradients(hidden: np.ndarray, head: Head, draws: int) -> list[dict[str, Any]]:
    """Measure bias and noise of the gradient to the student's logits."""
    exact = logits_of(hidden[:4], head)
    noise = np.random.default_rng(1).normal(0, 1, exact.shape)
    student = jnp.asarray(exact + noise, jnp.float32)
    full = _slope(lambda s: losses.forward_kl(s, exact), student)
    top = codecs.decode(TopK(64), codecs.encode(TopK(64), exact))
    order = jnp.argsort(-exact, -1)[:, :64]
    best = jnp.take_along_axis(jnp.asarray(exact), order, -1)
    shares = jax.nn.softmax(best)
    fixed: dict[str, Callable[[jax.Array], jax.Array]] = {
        "topk, tail as the student": lambda s: losses.topk_forward_kl(s, *top),
        "topk, tail spread evenly": lambda s: losses.topk_forward_kl(s, *top, tail="uniform"),
        "top 64 renormalized on both sides": lambda s: losses.forward_kl(
            jnp.take_along_axis(s, order, -1), best
        ),
        "top 64 renormalized": lambda s: losses.sampled_forward_kl(s, order, shares),
    }
    rows = [
        {"gradient": name, **_error(_slope(loss, student)[None], full)}
        for name, loss in fixed.items()
    ]
    codec = Sampled()
    encode = jax.jit(functools.partial(codecs.encode, codec))
    slope = jax.jit(functools.partial(_slope_of_sample, student))
    sampled, replaced = [], []
    count = codecs.bytes_per_token(codec, VOCABULARY) // 2
    for draw in range(draws):
        keys = codecs.token_keys(draw, np.arange(4), np.zeros(4))
        targets = codecs.decode(codec, encode(exact, keys))
        sampled.append(slope(targets.ids, targets.weights))
        ids = jax.vmap(lambda key, row: jax.random.categorical(key, row, shape=(count,)))(
            keys, exact
        )
        replaced.append(slope(ids, jnp.full(ids.shape, 1 / count)))
    for name, slopes in (
        (f"sampled, {codec.samples} different classes", sampled),
        (f"{count} draws with replacement", replaced),
    ):
        rows.append({"gradient": name, **_error(jnp.stack(slopes), full)})
    return rows


def _slope(loss: Callable[[jax.Array], jax.Array], student: jax.Array) -> jax.Array:
    return jax.jit(jax.grad(lambda s: loss(s).sum()))(student)


def _slope_of_sample(student: jax.Array, ids: jax.Array, weights: jax.Array) -> jax.Array:
    return jax.grad(lambda s: losses.sampled_forward_kl(s, ids, weights).sum())(student)


def _error(slopes: jax.Array, full: jax.Array) -> dict[str, float | None]:
    size = jnp.linalg.norm(full)
    along = jnp.tensordot(slopes - full, full, 2)  # [draws]
    error = jnp.std(along) / np.sqrt(len(slopes))
    spread = jnp.sqrt(jnp.sum(jnp.var(slopes, 0)))
    bias = jnp.linalg.norm(jnp.mean(slopes, 0) - full)
    return {
        "bias": float(bias / size),
        "bias_expected_from_noise": float(spread / size / np.sqrt(len(slopes))),
        "noise": float(spread / size),
        # Of the mean, along the full gradient.
        "standard_errors": float(jnp.abs(jnp.mean(along)) / error) if len(slopes) > 1 else None,
    }


def times(repeats: int) -> list[dict[str, Any]]:
    """Time a whole step of a GPT-2 student for every loss, taking turns."""
    model = build_model(
        {"family": "gpt2", "n_embd": WIDTH, "n_layer": 4, "n_head": 4, "vocab_size": VOCABULARY},
        logits=False,
    )
    shape = (4, 256)
    count = shape[0] * shape[1]
    hidden, head = teacher(count)
    exact = logits_of(hidden, head)
    keys = codecs.token_keys(0, np.arange(count), np.zeros(count))
    generator = np.random.default_rng(2)
    batch = {
        "input_ids": generator.integers(0, VOCABULARY, shape, np.int32),
        "attention_mask": np.ones(shape, np.int32),
        "labels": generator.integers(0, VOCABULARY, shape, np.int32),
        "loss_mask": np.ones(shape, np.float32),
    }

    def stored(codec: codecs.TopK | codecs.Sampled) -> dict[str, Any]:
        fields = jax.device_get(codecs.encode(codec, exact, keys))
        added = {
            PREFIX + name: leaf.reshape(*shape, *leaf.shape[1:]) for name, leaf in fields.items()
        }
        loss = getattr(losses, f"{codec.name}_forward_kl")
        options = {"temperature": codec.temperature}
        term = StoredLoss(loss, codecs.TARGETS[codec.name]._fields, 1.0, options)
        objective = Objective({"soft": stored_tokens_term({"soft": term})})
        return {"objective": objective, "teacher": make_apply(codec), "batch": {**batch, **added}}

    plain = Objective({"hard": fused_term({"hard": TokenLoss("cross_entropy")})})
    setups = {
        "cross-entropy": {"objective": plain, "teacher": None, "batch": batch},
        "sampled": stored(Sampled()),
        "topk": stored(TopK(64)),
    }
    optimizer = optax.adamw(1e-3)
    steps, states = {}, {}
    for name, setup in setups.items():
        step = make_train_step(model.apply, optimizer, setup["objective"], teacher=setup["teacher"])
        steps[name] = jax.jit(step, donate_argnums=0)
        params = jax.tree.map(jnp.array, model.params)
        states[name] = TrainState.create(params, optimizer)
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(repeats + 1):
        for name, run in steps.items():
            start = time.perf_counter()
            states[name], metrics = run(states[name], None, setups[name]["batch"])
            jax.block_until_ready((states[name], metrics))
            if turn:
                taken[name].append(time.perf_counter() - start)
    median = common.median(taken["cross-entropy"])
    return [
        {
            "step": name,
            "milliseconds": 1e3 * common.median(values),
            "relative_to_cross_entropy": common.median(values) / median,
        }
        for name, values in taken.items()
    ]


def training(folder: Path, steps: int, seeds: int) -> Iterator[dict[str, Any]]:
    """Distil from the live teacher and from each codec; return what they end with."""
    overrides = [
        f"seeds={list(range(seeds))}",
        # Of few steps it knows too little for the doctor.
        "accept=[teacher_skill]",
        "data.train_examples=60",
        "data.max_length=64",
        "data.tokenizer={vocabulary: 1024}",
        "teacher.model={family: gpt2, n_embd: 64, n_layer: 4, n_head: 4}",
        "student.model={family: gpt2, n_embd: 64, n_layer: 2, n_head: 4}",
        f"finetune.steps={4 * steps}",
        f"finetune.evaluate_every={4 * steps}",
        f"train.steps={steps}",
        f"train.evaluate_every={steps}",
        "telemetry.progress=none",
    ]
    for arm in ("live", "hidden", "topk", "sampled"):
        own = [] if arm == "live" else [f"cache.codec={arm}"]
        if own:
            # The teacher and the students that train alone are those of the first arm.
            for stage in ("data", "finetune", "baseline"):
                shutil.copytree(folder / "live" / stage, folder / arm / stage)
        config = load_config("stdlib_lm", [*overrides, *own])
        result = stages.run(config, folder / arm, until="distill")
        found = {"distilled, " + arm: result}
        if arm == "live":
            text = (folder / arm / "baseline" / "result.json").read_text(encoding="utf-8")
            found = {"alone": json.loads(text), **found}
        for name, done in found.items():
            values = [math.log(account["value"]) for account in done["seeds"]]
            yield {
                "student": name,
                "validation_nats_per_token": values,
                "mean": float(np.mean(values)),
                "seconds": float(np.mean([account["seconds"] for account in done["seeds"]])),
            }


def main() -> None:
    """Print a table of codecs, of gradients and of times."""
    parser = common.parser(__doc__)
    parser.add_argument("--tokens", type=int, default=2048, help="in each cache")
    parser.add_argument("--draws", type=int, default=200, help="of every sampled gradient")
    parser.add_argument("--repeats", type=int, default=5, help="of every timing")
    parser.add_argument("--steps", type=int, default=100, help="of every student")
    parser.add_argument("--seeds", type=int, default=3, help="students of each kind")
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS, metavar="PART")
    smoke = {"tokens": 256, "draws": 2, "repeats": 1, "steps": 2, "seeds": 1}
    arguments = common.parse(parser, smoke=smoke)
    rows: list[dict[str, Any]] = []

    def tell(row: dict[str, Any]) -> None:
        rows.append(row)
        print(row, flush=True)

    if "codecs" in arguments.parts:
        hidden, head = teacher(arguments.tokens)
        for codec in CODECS:
            with tempfile.TemporaryDirectory() as folder:
                name = f"{codec.name} {getattr(codec, 'dtype', '')}".strip()
                tell({"codec": name, **stored(codec, hidden, head, Path(folder))})
    if "gradients" in arguments.parts:
        for row in gradients(*teacher(SEQUENCE), arguments.draws):
            tell(row)
    if "steps" in arguments.parts:
        for row in times(arguments.repeats):
            tell(row)
    if "training" in arguments.parts:
        with tempfile.TemporaryDirectory() as folder:
            for row in training(Path(folder), arguments.steps, arguments.seeds):
                tell(row)
    common.write(arguments.json, rows)


if __name__ == "__main__":
    main()
