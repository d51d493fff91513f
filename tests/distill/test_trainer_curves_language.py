"""Every loss of a language model's run is that of a plain loop over its documents in PyTorch."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.curves import PlainLoop, assert_same_curve, run_stage
from support.texts import GPT2, values, write_corpus
from support.torch_terms import values_of

from jaxdistill.config.load import check
from jaxdistill.data.split import Split
from jaxdistill.distill import models as build
from jaxdistill.models.registry import Model, save_model

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

STEPS, DOCUMENTS = 20, 26
COOLING = {"start": 3.0, "end": 1.0, "over": 1}
FALLING = {"start": 1.0, "end": 0.25, "over": 0.5}
MIX = {
    "soft": {"loss": "forward_kl", "temperature": COOLING, "weight": FALLING},
    "other": {"loss": "jsd", "temperature": 2.0, "beta": 0.1, "weight": 0.6},
    "hard": {"loss": "cross_entropy", "weight": {"start": 0.2, "end": 1.0, "over": 15}},
}
TRAIN = {
    "steps": STEPS,
    "batch_size": 4,
    "learning_rate": 1e-3,
    "optimizer_options": {"b2": 0.95},  # for the digits of 1 - b2 ** step
    "evaluate_every": 10,
    "warmup": 0.2,
    "weight_decay": 0.1,
    "clip_norm": 0.5,
    "keep": "last",
}
CASES: dict[str, dict[str, Any]] = {
    "fused": {"objective": MIX, "train": {}},
    "fused, in microbatches": {
        "objective": MIX,
        "train": {"accumulate": 4, "schedule": "cosine", "ema": 0.8},
    },
    "dense, in microbatches": {
        "objective": {"soft": {"loss": "reverse_kl", "temperature": COOLING}, "hard": MIX["hard"]},
        "train": {"accumulate": 2, "schedule": "constant", "warmup": 5, "unroll": False},
        "losses": "dense",
    },
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> str:
    return write_corpus(tmp_path_factory.mktemp("data") / "corpus", DOCUMENTS)


def gpt2(model: Model, folder: Path) -> Any:
    save_model(folder, model)
    found = transformers.GPT2LMHeadModel.from_pretrained(folder, attn_implementation="eager")
    return found.double().eval()


def documents(split: Split, rows: Any) -> list[Any]:
    """The texts that lie in some rows, one by one."""
    found = []
    for row in rows:
        own = slice(split.inputs.offsets[row], split.inputs.offsets[row + 1])
        tokens, segments = split.inputs.tokens[own].astype(np.int64), split.inputs.segments[own]
        found += [torch.tensor(tokens[segments == n]) for n in range(1, segments.max() + 1)]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_decoder_learns_as_in_pytorch(name, corpus, tmp_path):
    case = CASES[name]
    sizes = {**GPT2, "initializer_range": 0.3}
    given = values(
        corpus,
        teacher={"model": sizes},
        student={"model": {**sizes, "n_embd": 12}},
        train=None,
        data={"tokenizer": {"vocabulary": 270}},
        objective=case["objective"],
        losses=case.get("losses", "fused"),
        telemetry={"progress": "none", "log_every": 1},
    )
    given["student"] = {"model": {**sizes, "n_embd": 12}}
    given["train"] = {**TRAIN, **case["train"]}
    config = check(given)
    dataset = build.load_data(config, tmp_path / "cache")
    teacher = build.load_teacher(config, dataset, training=True, seed=0)
    student = build.make_student(config, dataset, None, seed=1)
    teacher, student = (
        dataclasses.replace(model, source=dataset.tokenizer) for model in (teacher, student)
    )
    run = run_stage(config, dataset, student, teacher, tmp_path / "run")
    assert len({len(examples) for examples in run.examples}) > 1  # one batch of an epoch is short

    loop = PlainLoop(config, gpt2(student, tmp_path / "student"), run.projections, STEPS)
    guide = gpt2(teacher, tmp_path / "teacher")
    terms = {key: json.loads(term.model_dump_json()) for key, term in config.terms.items()}

    def means(examples: np.ndarray) -> dict[str, Any]:
        total, count = dict.fromkeys(terms, 0.0), 0
        for text in documents(dataset.train, examples):
            ours = loop.model(text[None]).logits[0, :-1]
            with torch.no_grad():
                theirs = guide(text[None]).logits[0, :-1]
            count += len(text) - 1
            for key, term in terms.items():
                found = values_of(term, ours, theirs, text[1:], loop.step, STEPS)
                total[key] = total[key] + found.sum()
        return {key: value / count for key, value in total.items()}

    def measure() -> float:
        total, count = 0.0, 0
        for text in documents(dataset.validation, range(len(dataset.validation))):
            with torch.no_grad():
                logits = loop.result(text[None]).logits[0, :-1]
            total += float(torch.nn.functional.cross_entropy(logits, text[1:], reduction="sum"))
            count += len(text) - 1
        return total / count

    assert_same_curve(run, loop, means, measure)
    trained = gpt2(run.trained, tmp_path / "trained")
    text = documents(dataset.validation, [0])[0][None]
    with torch.no_grad():
        ours, theirs = (model(text).logits for model in (trained, loop.result))
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
