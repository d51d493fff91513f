"""The shipped recipes with language models: perplexity and bits per byte of all three models.

    python benchmarks/language.py stdlib_lm --json stdlib_lm.json
    python benchmarks/language.py tinyshakespeare --json tinyshakespeare.json

`stdlib_lm` needs nothing; `tinyshakespeare` reads the text and GPT-2's vocabulary and merges from
`JAXDISTILL_DATA`. Values of the configuration are changed at the end of the line, such as
`train.steps=50`.
"""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path
from typing import Any

import common

from jaxdistill.runtime.malloc import keep_freed_memory

keep_freed_memory()  # Only before jax is imported.

from jaxdistill.config.load import load_config  # noqa: E402
from jaxdistill.distill import stages  # noqa: E402

SMOKE = [
    "seeds=[0]",
    "data.train_examples=20",
    "data.tokenizer={vocabulary: 300}",
    "finetune.steps=2",
    "train.steps=2",
    "telemetry.progress=none",
    # A teacher of two steps knows nothing yet.
    "accept=[teacher_skill]",
]
MODELS = ("teacher", "student_alone", "student_distilled")


def main() -> None:
    """Run a recipe and print one row per model."""
    parser = common.parser(__doc__)
    recipes = ("stdlib_lm", "tinyshakespeare")
    parser.add_argument("recipe", choices=recipes, nargs="?", default=recipes[0])
    parser.add_argument("--workdir", type=Path)
    parser.add_argument("overrides", nargs="*", help="values of the configuration, key=value")
    arguments = common.parse(parser, smoke={"recipe": "stdlib_lm", "overrides": SMOKE})
    workdir = arguments.workdir or Path("runs") / arguments.recipe
    overrides = list(arguments.overrides)
    if arguments.recipe == "tinyshakespeare":
        data = common.data_folder()
        tokenizer = write_tokenizer(data / "gpt2_bpe", workdir / "gpt2")
        text = data / "tinyshakespeare" / "input.txt.gz"
        overrides = [f"data.train={text}", f"data.tokenizer={tokenizer}", *overrides]
    start = time.monotonic()
    result = stages.run(load_config(arguments.recipe, overrides), workdir)
    seconds = time.monotonic() - start
    rows = [row(name, result[name]) for name in MODELS]
    for found in rows:
        print(
            f"{found['model']:18} perplexity {found['perplexity']:.2f}, "
            f"{found['bits_per_byte']:.4f} bits per byte, {found['parameters']:,} parameters, "
            f"seeds {', '.join(f'{value:.2f}' for value in found['values'])}"
        )
    print(f"{result['verdict']}\n{seconds:.0f} s from the first line to the report")
    common.write(
        arguments.json,
        rows,
        "transformers",
        "tokenizers",
        seconds=seconds,
        verdict=result["verdict"],
        overrides=arguments.overrides,
    )


def write_tokenizer(source: Path, target: Path) -> Path:
    """Write GPT-2's tokenizer as a Hugging Face folder."""
    target.mkdir(parents=True, exist_ok=True)
    (target / "vocab.json").write_bytes(gzip.decompress((source / "vocab.json.gz").read_bytes()))
    (target / "merges.txt").write_bytes((source / "merges.txt").read_bytes())
    settings = {"tokenizer_class": "GPT2Tokenizer", "model_max_length": 1024}
    (target / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return target


def row(name: str, found: dict[str, Any]) -> dict[str, Any]:
    """Return the means over seeds of one model."""
    bits = found["also"]["bits_per_byte"]
    return {
        "model": name,
        "perplexity": sum(found["values"]) / len(found["values"]),
        "bits_per_byte": sum(bits) / len(bits),
        "values": found["values"],
        "parameters": found["parameters"],
    }


if __name__ == "__main__":
    main()
