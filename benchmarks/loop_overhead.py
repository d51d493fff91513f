"""What the loop of `jaxdistill distill` costs beside the step, against a bare loop.

Both run the same jitted step over the same batches in one process, taking turns. The bare loop has
every batch on the device before its clock starts; ours reads, assembles, moves, logs and saves.

    python benchmarks/loop_overhead.py --json loop_overhead.json
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import common

from jaxdistill.runtime.malloc import keep_freed_memory

keep_freed_memory()  # Only before jax is imported.

import jax  # noqa: E402

from jaxdistill.config.load import check  # noqa: E402
from jaxdistill.distill import models as build  # noqa: E402
from jaxdistill.distill.trainer import make_trainer, run_seed  # noqa: E402


def main() -> None:
    """Time both loops `--repeats` times and print the ratio of the medians."""
    parser = common.parser(__doc__)
    parser.add_argument("--phrases", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = common.parse(parser, smoke={"phrases": 64, "repeats": 1})
    data = common.data_folder() / "sst2_glue"
    config = check(
        {
            "data": {
                "train": str(data / "train.tsv.gz"),
                "validation": str(data / "dev.tsv"),
                "max_length": 64,
                "train_examples": arguments.phrases,
            },
            "teacher": {"model": str(common.minilm_folder()), "precompute": False},
            "student": {"layers": [0, 2, 4]},
            "train": {"epochs": 1},
            "telemetry": {"progress": "none"},
        }
    )
    ours, bare = [], []
    with tempfile.TemporaryDirectory() as scratch:
        dataset = build.load_data(config, Path(scratch) / "cache")
        teacher = build.load_teacher(config, dataset, training=False, seed=0)
        student = build.make_student(config, dataset, None, seed=0)
        trainer = make_trainer(
            config, config.train, dataset, student, stage="distill", teacher=teacher
        )
        source = trainer.make_source(0)
        examples = sum(source.info(step).examples for step in range(trainer.total_steps))
        batches = [trainer.place(source[step]) for step in range(trainer.total_steps)]
        jax.block_until_ready(batches)
        for repeat in range(arguments.repeats + 1):
            first = trainer.start(trainer.layout.lay_out(student), 0)
            state = jax.block_until_ready(first.state)
            start = time.perf_counter()
            for batch in batches:
                state, _ = trainer.step(state, first.frozen, batch)
            jax.block_until_ready(state)
            seconds = time.perf_counter() - start
            _, result = run_seed(trainer, student, Path(scratch) / f"run-{repeat}", 0)
            if repeat:  # The first turn compiles.
                bare.append(examples / seconds)
                ours.append(result.examples_per_second)
                print(f"bare {bare[-1]:.1f} examples/s   loop {ours[-1]:.1f} examples/s")
    ratio = common.median(ours) / common.median(bare)
    print(
        f"median: bare {common.median(bare):.1f}, loop {common.median(ours):.1f} examples/s, "
        f"ratio {ratio:.3f} (spread {common.spread(bare):.2f}, {common.spread(ours):.2f})"
    )
    rows = [
        {"loop": "bare", "examples_per_second": common.median(bare), "values": bare},
        {"loop": "jaxdistill", "examples_per_second": common.median(ours), "values": ours},
    ]
    common.write(arguments.json, rows, ratio=ratio)


if __name__ == "__main__":
    main()
