"""What learning from its own texts does for a student: divergence from its teacher, and cost.

A byte-level GPT-2 learns the Python standard library's source; a smaller one is distilled from it,
first on the data, then in several ways from the same start: on the data only, with a share of
batches that the student writes which goes from 0 to 1, or on those only. Divergences, in nats per
token and over the whole vocabulary, are measured on texts that the student then writes and on
held-out source.

    python benchmarks/on_policy.py --json on_policy.json
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common

from jaxdistill.runtime.malloc import keep_freed_memory

keep_freed_memory()  # Only before jax is imported.

import jax  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402

import jaxdistill as jd  # noqa: E402
from jaxdistill import losses  # noqa: E402
from jaxdistill.engine.on_policy_step import make_on_policy_step  # noqa: E402
from jaxdistill.engine.terms_fused import TokenLoss, fused_term  # noqa: E402
from jaxdistill.generation.rollout import make_continue  # noqa: E402

ROWS, LENGTH, PROMPT = 16, 64, 16
VOCABULARY = 128
SPEC = {
    "family": "gpt2",
    "vocab_size": VOCABULARY,
    "n_positions": LENGTH,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
}
ARMS: dict[str, tuple[str, Callable[[int], Any]]] = {
    "forward_kl, share 0": ("forward_kl", lambda steps: 0.0),
    "reverse_kl, share 0": ("reverse_kl", lambda steps: 0.0),
    "reverse_kl, share 0 to 1": (
        "reverse_kl",
        lambda steps: optax.linear_schedule(0.0, 1.0, steps),
    ),
    "reverse_kl, share 1": ("reverse_kl", lambda steps: 1.0),
    "jsd, share 0 to 1": ("jsd", lambda steps: optax.linear_schedule(0.0, 1.0, steps)),
}


def source_text() -> np.ndarray:
    """Return the standard library's top-level modules as bytes, those outside of ASCII as `?`."""
    folder = Path(dataclasses.__file__).parent
    whole = b"".join(path.read_bytes() for path in sorted(folder.glob("*.py")))
    text = np.frombuffer(whole, np.uint8)
    return np.where(text < VOCABULARY, text, ord("?")).astype(np.int32)


def draw(text: np.ndarray, rows: int, seed: int) -> dict[str, np.ndarray]:
    """Cut rows of text anywhere: `[rows, LENGTH]` with next bytes as labels."""
    starts = np.random.default_rng(seed).integers(0, len(text) - LENGTH - 1, rows)
    where = starts[:, None] + np.arange(LENGTH)
    return {
        "input_ids": text[where],
        "attention_mask": np.ones((rows, LENGTH), np.int32),
        "labels": text[where + 1],
        "loss_mask": np.ones((rows, LENGTH), np.int32),
    }


def fit(
    model: jd.Model,
    loss: str,
    text: np.ndarray,
    steps: int,
    *,
    teacher: jd.Model | None = None,
    share: Any = None,
    rate: float = 3e-3,
    seed: int = 0,
) -> tuple[jd.Model, float]:
    """Train a model, and return it with the median milliseconds of the last quarter's steps."""
    optimizer = optax.adamw(optax.cosine_decay_schedule(rate, steps), weight_decay=0.01)
    step = jd.make_train_step(
        model.apply,
        optimizer,
        jd.Objective({"fused": fused_term({"loss": TokenLoss(loss)})}),
        teacher=None if teacher is None else teacher.apply,
    )
    if share is not None:
        step = make_on_policy_step(step, make_continue(model, prompt_tokens=PROMPT), share)
    compiled = jax.jit(step, donate_argnums=0)
    state = jd.TrainState.create(model.params, optimizer, seed=seed)
    params = None if teacher is None else teacher.params
    times = []
    for index in range(steps):
        start = time.perf_counter()
        state, metrics = compiled(state, params, draw(text, ROWS, seed * 100_000 + index))
        jax.block_until_ready(metrics)
        times.append(time.perf_counter() - start)
    assert compiled._cache_size() == 1, "the step was compiled more than once"
    trained = dataclasses.replace(model, params=state.student)
    return trained, 1000 * common.median(times[-max(steps // 4, 1) :])


def make_measure(
    student: jd.Model, teacher: jd.Model, held_out: np.ndarray, rows: int
) -> Callable[[Any], dict[str, float]]:
    """Make `measure(student_params)`: divergences on its own texts and on held-out source."""
    write = make_continue(student, prompt_tokens=PROMPT)

    @jax.jit
    def divergences(params, batch):
        ours, theirs = student.apply(params, batch).logits, teacher.apply(teacher.params, batch)
        pairs = {"reverse_kl": losses.reverse_kl, "forward_kl": losses.forward_kl}
        return {
            name: jd.Mean.of(function(ours, theirs.logits), batch["loss_mask"]).value()
            for name, function in pairs.items()
        }

    written = jax.jit(write)

    def measure(params: Any) -> dict[str, float]:
        data = draw(held_out, rows, 7)
        own = written(params, data, jax.random.key(11))
        found = {"student_texts": divergences(params, own), "held_out": divergences(params, data)}
        return {
            f"{name}_{place}": float(value)
            for place, values in found.items()
            for name, value in values.items()
        }

    return measure


def main() -> None:
    """Train the teacher, then every arm for every seed, and print means over seeds."""
    parser = common.parser(__doc__)
    parser.add_argument("--teacher-steps", type=int, default=800)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), metavar="ARM")
    parser.add_argument("--rows", type=int, default=256, help="texts measured on")
    arms = ["reverse_kl, share 0 to 1"]
    smoke = {"teacher_steps": 2, "steps": 2, "seeds": 1, "rows": 4, "arms": arms}
    arguments = common.parse(parser, smoke=smoke)
    text = source_text()
    cut = len(text) * 9 // 10
    train, held_out = text[:cut], text[cut:]
    start = time.perf_counter()
    teacher = jd.build_model({**SPEC, "n_embd": 96, "n_layer": 3, "n_head": 4}, seed=0)
    teacher, _ = fit(teacher, "cross_entropy", train, arguments.teacher_steps)
    print(f"teacher: {arguments.teacher_steps} steps, {time.perf_counter() - start:.0f} s")
    values: dict[str, list[dict[str, float]]] = {}
    for seed in range(arguments.seeds):
        model = jd.build_model({**SPEC, "n_embd": 32, "n_layer": 1, "n_head": 2}, seed=seed + 1)
        measure = make_measure(model, teacher, held_out, arguments.rows)
        model, _ = fit(model, "forward_kl", train, arguments.steps, teacher=teacher, seed=seed)
        values.setdefault("start", []).append(measure(model.params))
        for name in arguments.arms:
            loss, share = ARMS[name]
            trained, milliseconds = fit(
                model,
                loss,
                train,
                arguments.steps,
                teacher=teacher,
                share=share(arguments.steps),
                rate=1e-3,
                seed=seed,
            )
            found = measure(trained.params) | {"milliseconds": milliseconds}
            values.setdefault(name, []).append(found)
            print(seed, name, {key: round(value, 4) for key, value in found.items()})
    rows = []
    for name, found in values.items():
        means = {key: float(np.mean([one[key] for one in found])) for key in found[0]}
        rows.append({"arm": name, "seeds": arguments.seeds, **means, "values": found})
        print(f"{name:26}", "  ".join(f"{key} {value:.4f}" for key, value in means.items()))
    common.write(arguments.json, rows, settings=vars(arguments) | {"json": None})


if __name__ == "__main__":
    main()
