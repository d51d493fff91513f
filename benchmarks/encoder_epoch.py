"""One epoch of encoder distillation against `transformers` on PyTorch, in real tokens per second.

MiniLM-L6 teaches three of its layers on the same 4,000 SST-2 phrases: batch 32, dropout 0.1 in the
student, AdamW with clipping and a masked weight decay, KL at temperature 2 plus cross-entropy,
float32, two threads. PyTorch runs with its default collator (shuffled, padded to the longest of the
batch) and with batches grouped by length, each eager and compiled, its teacher in every step. Every
implementation lives in a process of its own; they take turns, one epoch each.

Ours runs in two ways. `live` has its teacher in every step, too. `run` is what `jaxdistill distill`
does by default: the frozen teacher says the same in every epoch, so it runs once over the phrases
for the three epochs of a run; a third of that pass counts in each epoch. The update is the same.

Both do less work for the same objective: eight bucket lengths chosen by dynamic programming, the
last layer computed for the pooled token only (nothing else of it reaches the logits), no update of
embedding rows that no phrase uses, and memory that stays with the process between steps.

    python benchmarks/encoder_epoch.py --json encoder_epoch.json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common

BATCH, TEMPERATURE, RATE, LAYERS, EPOCHS = 32, 2.0, 5e-5, (0, 2, 4), 3
PEERS = ("eager", "compiled")
Epoch = Callable[[str, int], dict[str, float]]


def configuration(phrases: int, buckets: int = 8, precompute: bool = False) -> Any:
    """Return the run's configuration; PyTorch takes its data from the same one."""
    from jaxdistill.config.load import check

    data = common.data_folder() / "sst2_glue"
    return check(
        {
            "data": {
                "train": str(data / "train.tsv.gz"),
                "validation": str(data / "dev.tsv"),
                "max_length": 64,
                "buckets": buckets,
                "train_examples": phrases,
            },
            "teacher": {"model": str(common.minilm_folder()), "precompute": precompute},
            "student": {"layers": list(LAYERS)},
            "train": {"epochs": 100, "batch_size": BATCH, "learning_rate": RATE},
            "objective": {
                "soft": {"loss": "forward_kl", "weight": 0.5, "temperature": TEMPERATURE},
                "hard": {"loss": "cross_entropy", "weight": 0.5},
            },
        }
    )


def ours(phrases: int, buckets: int, scratch: Path) -> Epoch:
    """Prepare the step and the loader of `jaxdistill distill`, with its teacher live and ahead."""
    from jaxdistill.runtime.malloc import keep_freed_memory

    keep_freed_memory()  # Only before jax is imported.
    import jax

    from jaxdistill.data.batching.loader import device_batches
    from jaxdistill.distill import models as build
    from jaxdistill.distill.evaluator import make_evaluator
    from jaxdistill.distill.trainer import make_trainer
    from jaxdistill.parallel.mesh import make_mesh
    from jaxdistill.teachers.targets import in_memory, with_targets

    config = configuration(phrases, buckets)
    dataset = build.load_data(config, scratch)
    teacher = build.load_teacher(config, dataset, training=False, seed=0)
    student = build.make_student(config, dataset, None, seed=0)
    trainers, states, frozen, sources = {}, {}, {}, {}
    for mode, ahead in (("live", False), ("run", True)):
        own = configuration(phrases, buckets, precompute=ahead)
        trainer = make_trainer(own, own.train, dataset, student, stage="distill", teacher=teacher)
        trainers[mode], sources[mode] = trainer, trainer.make_source(0)
        begun = trainer.start(trainer.layout.lay_out(student), 0)
        states[mode], frozen[mode] = begun.state, begun.frozen
    laid_out = trainers["run"].layout.lay_out(teacher)
    mesh = make_mesh()
    speak = make_evaluator(config, laid_out, mesh)

    def epoch(mode: str, number: int) -> dict[str, float]:
        trainer, source = trainers[mode], sources[mode]
        steps = source.steps_per_epoch
        first, tokens, slots, losses = number * steps, 0, 0, []
        start = time.perf_counter()
        if mode == "run":
            logits, _ = speak(laid_out.params, laid_out.model_state, trainer.dataset.train)
            source = with_targets(source, in_memory(logits))
        teacher_seconds = time.perf_counter() - start
        start = time.perf_counter()
        for batch, info in device_batches(source, first, first + steps, place=trainer.place):
            states[mode], metrics = trainer.step(states[mode], frozen[mode], batch)
            losses.append(metrics["loss"].total)
            tokens, slots = tokens + info.tokens, slots + info.slots
        jax.block_until_ready(states[mode])
        seconds = time.perf_counter() - start + teacher_seconds / EPOCHS
        loss = sum(float(value) for value in losses) / len(losses)
        return {"seconds": seconds, "tokens": tokens, "slots": slots, "loss": loss}

    return epoch


def theirs(phrases: int, scratch: Path, compiled: bool) -> Epoch:
    """Prepare the same epoch with `transformers` on PyTorch."""
    import numpy as np
    import torch
    from transformers import AutoConfig, BertForSequenceClassification
    from transformers.trainer_pt_utils import LengthGroupedSampler

    from jaxdistill.distill import models as build

    torch.set_num_threads(2)
    torch.manual_seed(0)
    split = build.load_data(configuration(phrases), scratch).train
    lengths, folder = split.lengths, str(common.minilm_folder())
    teacher = BertForSequenceClassification.from_pretrained(folder, num_labels=2).eval()
    settings = AutoConfig.from_pretrained(folder, num_hidden_layers=len(LAYERS), num_labels=2)
    student = BertForSequenceClassification(settings)
    student.load_state_dict(teacher.state_dict(), strict=False)
    for place, layer in enumerate(LAYERS):
        kept = teacher.bert.encoder.layer[layer].state_dict()
        student.bert.encoder.layer[place].load_state_dict(kept)
    student.train()
    weights = [p for name, p in student.named_parameters() if _decays(name)]
    others = [p for name, p in student.named_parameters() if not _decays(name)]
    groups = [{"params": weights, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE, fused=True)
    teach, learn = teacher, student
    if compiled:
        teach, learn = (torch.compile(model, dynamic=True) for model in (teacher, student))

    def batch_of(index: Any) -> dict[str, Any]:
        length = int(lengths[index].max())
        ids = np.zeros((len(index), length), np.int64)
        for row, example in enumerate(index):
            ids[row, : lengths[example]] = split.inputs.tokens[
                split.inputs.offsets[example] : split.inputs.offsets[example + 1]
            ]
        mask = np.arange(length)[None] < lengths[index][:, None]
        return {
            "input_ids": torch.from_numpy(ids),
            "attention_mask": torch.from_numpy(mask.astype(np.int64)),
            "token_type_ids": torch.zeros(ids.shape, dtype=torch.int64),
        }

    def epoch(mode: str, number: int) -> dict[str, float]:
        generator = torch.Generator().manual_seed(number)
        if mode == "grouped":
            sampler = LengthGroupedSampler(BATCH, lengths=lengths.tolist(), generator=generator)
            order = np.array(list(sampler))
        else:
            order = torch.randperm(len(split), generator=generator).numpy()
        slots, losses = 0, []
        start = time.perf_counter()
        for at in range(0, len(order), BATCH):
            index = order[at : at + BATCH]
            inputs, labels = batch_of(index), torch.from_numpy(split.labels[index].astype(np.int64))
            with torch.no_grad():
                targets = teach(**inputs).logits
            logits = learn(**inputs).logits
            soft = torch.nn.functional.kl_div(
                torch.log_softmax(logits / TEMPERATURE, -1),
                torch.log_softmax(targets / TEMPERATURE, -1),
                log_target=True,
                reduction="batchmean",
            )
            hard = torch.nn.functional.cross_entropy(logits, labels)
            loss = 0.5 * TEMPERATURE**2 * soft + 0.5 * hard
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.detach())
            slots += inputs["input_ids"].numel()
        seconds = time.perf_counter() - start
        mean = float(torch.stack(losses).mean())
        return {"seconds": seconds, "tokens": int(lengths.sum()), "slots": slots, "loss": mean}

    return epoch


def _decays(name: str) -> bool:
    return "LayerNorm" not in name and not name.endswith("bias")


def work(name: str, phrases: int, buckets: int, scratch: Path) -> None:
    """Be one implementation: run an epoch for every line on standard input."""
    epoch = (
        ours(phrases, buckets, scratch)
        if name == "jaxdistill"
        else theirs(phrases, scratch, compiled=name == "compiled")
    )
    for line in sys.stdin:
        mode, number = line.split()
        print("RESULT " + json.dumps(epoch(mode, int(number))), flush=True)


def main() -> None:
    """Let the implementations take turns and print medians and ratios."""
    parser = common.parser(__doc__)
    parser.add_argument("--phrases", type=int, default=4000)
    parser.add_argument("--buckets", type=int, default=8, help="row lengths that ours compiles")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    smoke = {"phrases": 64, "buckets": 1, "repeats": 1, "peers": ["eager"]}
    arguments = common.parse(parser, smoke=smoke)
    if arguments.worker:
        return work(arguments.worker, arguments.phrases, arguments.buckets, arguments.scratch)
    turns = [("jaxdistill", "live"), ("jaxdistill", "run")]
    turns += [(name, mode) for name in arguments.peers for mode in ("default", "grouped")]
    measured: dict[tuple[str, str], list[dict[str, float]]] = {turn: [] for turn in turns}
    with tempfile.TemporaryDirectory() as scratch:
        workers = {}
        for name in dict(turns):
            own = [*sys.argv, "--worker", name, "--scratch", scratch]
            workers[name] = subprocess.Popen(
                [sys.executable, *own], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        for repeat in range(arguments.repeats + 1):  # The first turn warms up and compiles.
            for name, mode in turns:
                result = _ask(workers[name], mode, repeat)
                rate = result["tokens"] / result["seconds"]
                note = "warm-up" if repeat == 0 else f"loss {result['loss']:.4f}"
                print(f"{name:11} {mode:9} {rate:8.0f} tokens/s  {note}", flush=True)
                if repeat:
                    measured[name, mode].append({**result, "rate": rate})
        for worker in workers.values():
            assert worker.stdin is not None
            worker.stdin.close()
            worker.wait()
    rows = [_row(turn, results) for turn, results in measured.items()]
    rates = {(row["implementation"], row["batches"]): row["tokens_per_second"] for row in rows}
    ratios: dict[str, dict[str, float]] = {"live": {}, "run": {}}
    for mode in ("default", "grouped"):
        best = max(arguments.peers, key=lambda name, mode=mode: rates[name, mode])
        for own, found in ratios.items():
            found[mode] = rates["jaxdistill", own] / rates[best, mode]
            print(f"{own}: {found[mode]:.2f} times PyTorch with {mode} batches ({best})")
    common.write(arguments.json, rows, "torch", "transformers", ratios=ratios)
    return None


def _ask(worker: subprocess.Popen[str], mode: str, number: int) -> dict[str, float]:
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write(f"{mode} {number}\n")
    worker.stdin.flush()
    for line in worker.stdout:
        if line.startswith("RESULT "):
            return json.loads(line.removeprefix("RESULT "))
    raise SystemExit(f"a worker ended early with exit code {worker.wait()}")


def _row(turn: tuple[str, str], results: list[dict[str, float]]) -> dict[str, Any]:
    rates = [result["rate"] for result in results]
    row = {
        "implementation": turn[0],
        "batches": turn[1],
        "tokens_per_second": common.median(rates),
        "spread": common.spread(rates),
        "padding": 1 - results[0]["tokens"] / results[0]["slots"],
        "values": rates,
    }
    print(
        f"{turn[0]:11} {turn[1]:9} median {row['tokens_per_second']:8.0f} tokens/s "
        f"(spread {row['spread']:.2f}), padding {100 * row['padding']:.1f} %"
    )
    return row


if __name__ == "__main__":
    main()
