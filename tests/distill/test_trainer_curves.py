"""Every loss of a run is that of a plain loop in PyTorch, however the run lays out its batches."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import runs
from support.curves import PlainLoop, Run, assert_same_curve, run_stage
from support.torch_terms import values_of

from jaxdistill.config.load import check
from jaxdistill.data.split import Split
from jaxdistill.distill import models as build
from jaxdistill.models.registry import save_model

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

STEPS, ROWS, HELD_OUT = 20, 53, 24
STUDENT = {"hidden_size": 12, "intermediate_size": 20, "initializer_range": 0.2}
COOLING = {"start": 4.0, "end": 1.0, "over": 1}
FALLING = {"start": 1.0, "end": 0.25, "over": 0.5}
RISING = {"start": 0.1, "end": 0.8, "over": 12}
SOFT = {"loss": "forward_kl", "temperature": 2.0, "weight": 0.7}
HARD = {"loss": "cross_entropy", "weight": 0.3}
FEATURES = {
    "hidden": {"loss": "hidden_mse", "layers": {0: 1, 1: 0}, "weight": RISING},
    "attention": {"loss": "attention_kl", "layers": {1: 1, 0: 0}, "weight": 0.5},
}
TRAIN = {
    "steps": STEPS,
    "batch_size": 12,
    "learning_rate": 1e-3,
    # With 0.999 the correction of the first steps' bias, 1 - b2 ** step, has few digits in float32.
    "optimizer_options": {"b2": 0.95},
    "warmup": 0.2,
    "weight_decay": 0.1,
    "clip_norm": 0.5,
    "dropout": 0.0,
    "keep": "last",
}
# Sections of the configuration that differ, by what they are about.
CASES: dict[str, dict[str, Any]] = {
    "buckets": {
        "objective": {"soft": SOFT, "hard": {**HARD, "weight": FALLING}},
        "data": {"tokens_per_batch": 120, "buckets": 2},
        "train": {"optimizer_options": {"b1": 0.8, "b2": 0.9, "eps": 1e-6}},
    },
    "microbatches of buckets": {
        "objective": {"soft": {**SOFT, "temperature": COOLING, "weight": FALLING}, **FEATURES},
        "train": {"accumulate": 4, "schedule": "cosine", "ema": 0.8},
    },
    "packed": {
        "objective": {"soft": {**SOFT, "weight": FALLING}, "hard": HARD, **FEATURES},
        "data": {"layout": "pack"},
        "train": {"schedule": "constant", "warmup": 3},
    },
    "microbatches of packed rows": {
        "objective": {
            "soft": {"loss": "jsd", "temperature": COOLING, "beta": 0.1, "weight": RISING},
            "hard": {**HARD, "label_smoothing": 0.1},
        },
        "data": {"layout": "pack"},
        "train": {"accumulate": 3, "schedule": "cosine", "ema": 0.9},
    },
    "microbatches of packed rows on devices": {
        "objective": {"soft": {**SOFT, "temperature": COOLING}, "hard": HARD, **FEATURES},
        "data": {"layout": "pack"},
        "train": {"accumulate": 2},
        "parallel": {"data": 2},
    },
    "microbatches of buckets under pmap": {
        "objective": {"soft": {**SOFT, "loss": "reverse_kl"}, "hard": HARD},
        "train": {"accumulate": 2, "clip_norm": None, "used_vocabulary": False, "unroll": False},
        "parallel": {"data": 3, "strategy": "pmap"},
    },
    "alone": {
        "objective": {"hard": {**HARD, "label_smoothing": 0.2}},
        "train": {"optimizer_options": {}},
        "teacher": None,
    },
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, str]:
    """A teacher and a narrower student of as many heads, a training file, one held out."""
    folder = tmp_path_factory.mktemp("toy")
    return {
        "teacher": runs.write_teacher(folder / "teacher", initializer_range=0.3),
        "student": runs.write_teacher(folder / "student", seed=1, **STUDENT),
        "train": runs.write_sentences(folder / "train.tsv", ROWS, seed=0),
        "validation": runs.write_sentences(folder / "dev.tsv", HELD_OUT, seed=1),
    }


def bert(folder: str | Path) -> Any:
    found = transformers.BertForSequenceClassification.from_pretrained(
        folder, attn_implementation="eager"
    )
    return found.double().eval()


def padded(split: Split, examples: Any) -> dict[str, Any]:
    """Put the tokens of some examples below each other, as a tokenizer pads them."""
    texts = [
        split.inputs.tokens[split.inputs.offsets[i] : split.inputs.offsets[i + 1]] for i in examples
    ]
    ids = np.zeros((len(texts), max(map(len, texts))), np.int64)
    mask = np.zeros_like(ids)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = text
        mask[row, : len(text)] = 1
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def feature_mean(
    term: dict[str, Any], student: Any, teacher: Any, mask: Any, maps: dict[int, Any]
) -> Any:
    """Average over pairs of layers and real tokens (and heads, of attention maps)."""
    total = count = 0.0
    for ours, theirs in term["layers"].items():
        if term["loss"] == "hidden_mse":
            mapped = student.hidden_states[ours + 1] @ maps[ours]
            values = ((mapped - teacher.hidden_states[theirs + 1]) ** 2).mean(-1)
            where = mask.double()
        else:
            q, p = student.attentions[ours], teacher.attentions[theirs]
            seen = mask[:, None, None].bool().expand_as(p)
            one = torch.ones_like(p)
            logs = torch.log(torch.where(seen, p, one)) - torch.log(torch.where(seen, q, one))
            values = (p * logs).sum(-1)
            where = mask[:, None].double().expand_as(values)
        total, count = total + (values * where).sum(), count + where.sum()
    return total / count


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_an_encoder_learns_as_in_pytorch(name, folders, tmp_path):
    case = dict(CASES[name])
    alone = case.pop("teacher", ()) is None
    sections = {
        "data": {
            "train": folders["train"],
            "validation": folders["validation"],
            "max_length": 16,
            "buckets": 1,
        },
        "teacher": {"model": folders["teacher"]},
        "student": {"model": folders["student"]},
        "finetune": None,
        "train": TRAIN,
        "telemetry": {"progress": "none", "log_every": 1},
        "parallel": {"data": 1, "compilation_cache": False},
        "objective": {},
    }
    config = check({part: {**values, **case.get(part, {})} if values is not None else None
                    for part, values in sections.items()})  # fmt: skip
    dataset = build.load_data(config, tmp_path / "cache")
    student = build.make_student(config, dataset, None, seed=0)
    teacher = None if alone else build.load_teacher(config, dataset, training=False, seed=0)
    run = run_stage(config, dataset, student, teacher, tmp_path / "run")
    assert sum(map(len, run.examples[: run.trainer.make_source(0).steps_per_epoch])) == ROWS

    loop = PlainLoop(config, bert(folders["student"]), run.projections, STEPS)
    guide = bert(folders["teacher"])
    terms = {name: json.loads(term.model_dump_json()) for name, term in config.terms.items()}
    for term in terms.values():
        layers = term.get("layers") or {}
        term["layers"] = {int(ours): theirs for ours, theirs in layers.items()}
    if alone:  # The weight that the loss has beside the teacher's is none where it is alone.
        loop.terms["hard"]["weight"] = 1.0

    def means(examples: np.ndarray) -> dict[str, Any]:
        batch = padded(dataset.train, examples)
        labels = torch.tensor(dataset.train.labels[examples].astype(np.int64))
        everything = {"output_hidden_states": True, "output_attentions": True}
        ours = loop.model(**batch, **everything)
        with torch.no_grad():
            theirs = guide(**batch, **everything)
        found = {}
        for key, term in terms.items():
            if term["layers"]:
                maps = loop.projections.get(key, {})
                found[key] = feature_mean(term, ours, theirs, batch["attention_mask"], maps)
            else:
                given = (ours.logits, theirs.logits, labels, loop.step, STEPS)
                found[key] = values_of(term, *given).mean()
        return found

    def measure() -> float:
        batch = padded(dataset.validation, range(HELD_OUT))
        labels = torch.tensor(dataset.validation.labels.astype(np.int64))
        smoothing = terms.get("hard", {}).get("label_smoothing", 0.0)
        with torch.no_grad():
            logits = loop.result(**batch).logits
        given = {"label_smoothing": smoothing}
        return float(torch.nn.functional.cross_entropy(logits, labels, **given))

    options = config.train.optimizer_options
    assert_same_curve(run, loop, means, measure, tolerance=2e-6 if options else 1e-5)
    same_logits(run, loop, dataset.validation, tmp_path / "export")


def same_logits(run: Run, loop: PlainLoop, split: Split, folder: Path) -> None:
    """The model that is handed on says what the loop's result says."""
    save_model(folder, run.trained)
    batch = padded(split, range(HELD_OUT))
    with torch.no_grad():
        ours, theirs = (model(**batch).logits for model in (bert(folder), loop.result))
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
