"""The shipped SST-2 recipe on all 67,349 phrases: teacher, student alone, student distilled.

MiniLM-L6 is fine-tuned, three of its layers become the student, and each seed trains it with and
without the teacher. Accuracy is reported on the 872 GLUE development sentences, which choose the
best step of every training, and on the 1,821 labelled test sentences, which nothing has seen.

    python benchmarks/sst2.py --workdir runs/sst2 --json sst2.json

Its figures and log are in `benchmarks/results`, beside the table of the recipes that were tried.

Finished stages of the work directory are kept. Other recipes are tried by overrides at the end of
the line, such as `train.learning_rate=1e-4`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import common
import numpy as np

from jaxdistill.runtime.malloc import keep_freed_memory

keep_freed_memory()  # Only before jax is imported.

from jaxdistill.config.load import load_config  # noqa: E402
from jaxdistill.config.schema import Config  # noqa: E402
from jaxdistill.distill import models as build  # noqa: E402
from jaxdistill.distill import stages as pipeline  # noqa: E402
from jaxdistill.distill.evaluator import make_evaluator  # noqa: E402
from jaxdistill.evaluation.uncertainty import accuracy_interval  # noqa: E402
from jaxdistill.parallel.mesh import mesh_of  # noqa: E402

SMOKE = [
    "seeds=[0]",
    "data.train_examples=64",
    "data.max_length=32",
    "data.buckets=1",
    "finetune.steps=2",
    "train.steps=2",
    "telemetry.progress=none",
    # A teacher of two steps knows nothing yet.
    "accept=[teacher_skill]",
]


def main() -> None:
    """Run the recipe and print one row per model."""
    parser = common.parser(__doc__)
    parser.add_argument("--workdir", type=Path, default=Path("runs/sst2"))
    parser.add_argument("overrides", nargs="*", help="values of the configuration, key=value")
    arguments = common.parse(parser, smoke={"overrides": SMOKE})
    data = common.data_folder()
    test = arguments.workdir / "test.tsv"
    write_test(data / "sst2_sentences_orig" / "test.txt", test, 64 if arguments.smoke else None)
    development = test if arguments.smoke else data / "sst2_glue" / "dev.tsv"
    config = load_config(
        "sst2",
        [
            f"teacher.model={common.minilm_folder()}",
            f"data.train={data / 'sst2_glue' / 'train.tsv.gz'}",
            f"data.validation={development}",
            f"data.test={test}",
            *arguments.overrides,
        ],
    )
    pipeline.run(config, arguments.workdir)
    rows = accuracies(config, arguments.workdir)
    for row in rows:
        low, high = row["interval"]
        print(
            f"{row['model']:18} {row['split']:10} {100 * row['accuracy']:.2f} % "
            f"(95 % interval {100 * low:.1f} to {100 * high:.1f}), "
            f"seeds {', '.join(f'{100 * value:.2f}' for value in row['values'])}"
        )
    gains = {}
    for split in ("validation", "test"):
        value = {row["model"]: row["accuracy"] for row in rows if row["split"] == split}
        gains[split] = {
            "kept": value["distill"] / value["finetune"],
            "gained": value["distill"] - value["baseline"],
        }
        print(
            f"{split}: the distilled student keeps {100 * gains[split]['kept']:.1f} % of the "
            f"teacher and gains {100 * gains[split]['gained']:+.2f} points over the student alone"
        )
    stages = {
        stage: account(arguments.workdir, stage) for stage in ("finetune", "baseline", "distill")
    }
    for stage, runs in stages.items():
        for run in runs:
            print(
                f"{stage:8} seed {run['seed']}: {run['steps']:,} steps in {run['seconds']:.0f} s, "
                f"{run['examples_per_second']:.0f} examples/s, padding {100 * run['padding']:.1f} %"
            )
    common.write(arguments.json, rows, gains=gains, stages=stages, overrides=arguments.overrides)


def write_test(source: Path, target: Path, count: int | None) -> None:
    """Write lines of `label sentence`, or a number of them, under the training file's columns."""
    lines = source.read_text(encoding="utf-8").splitlines()[:count]
    rows = [line.split(" ", 1) for line in lines]
    lines = ["sentence\tlabel", *(f"{sentence}\t{label}" for label, sentence in rows)]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")


def accuracies(config: Config, workdir: Path) -> list[dict[str, Any]]:
    """Evaluate every model of the work directory on both splits."""
    dataset = build.load_data(config, workdir / "cache")
    mesh = mesh_of(config.parallel.sizes)
    rows = []
    for stage in ("finetune", "baseline", "distill"):
        seeds = [""] if stage == "finetune" else [f"seed-{seed}" for seed in config.seeds]
        folders = [workdir / stage / seed / "model" for seed in seeds]
        models = [build.load_finetuned(folder, config, dataset) for folder in folders]
        evaluate = make_evaluator(config, models[0], mesh)
        for name in ("validation", "test"):
            split = getattr(dataset, name)
            values = [
                evaluate(model.params, model.model_state, split)[1]["accuracy"] for model in models
            ]
            accuracy = float(np.mean(values))
            rows.append(
                {
                    "model": stage,
                    "split": name,
                    "examples": len(split),
                    "accuracy": accuracy,
                    "values": values,
                    "interval": accuracy_interval(accuracy, len(split)),
                }
            )
    return rows


def account(workdir: Path, stage: str) -> list[dict[str, Any]]:
    """Return what each training of a stage took."""
    result = json.loads((workdir / stage / "result.json").read_text(encoding="utf-8"))
    return result.get("seeds", [result])


if __name__ == "__main__":
    main()
