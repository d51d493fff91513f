"""How much sooner a second run of the same configuration takes its first step.

Each run is `jaxdistill finetune` in a process and a work directory of its own. The two lie side by
side and share their parent's compilation cache, which the second run finds filled. Counted is from
the start of the training loop to the end of its first step, and the command as a whole.

    python benchmarks/first_step.py --json first_step.json
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common


def run(workdir: Path) -> dict[str, float]:
    """Fine-tune for two steps; return seconds to the first one and of the whole command."""
    data = common.data_folder() / "sst2_glue"
    command = [
        *(sys.executable, "-m", "jaxdistill", "finetune", "sst2", "--workdir", str(workdir)),
        f"data.train={data / 'train.tsv.gz'}",
        f"data.validation={data / 'dev.tsv'}",
        "data.train_examples=2000",
        f"teacher.model={common.minilm_folder()}",
        "finetune.steps=2",
        "telemetry.progress=none",
    ]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    whole = time.perf_counter() - start
    account = json.loads((workdir / "finetune" / "result.json").read_text(encoding="utf-8"))
    return {"first_step": account["seconds_to_first_step"], "command": whole}


def main() -> None:
    """Run `--repeats` pairs, each with an empty cache, and print medians and ratios."""
    parser = common.parser(__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = common.parse(parser, smoke={"repeats": 1})
    rows = []
    for _ in range(arguments.repeats):
        with tempfile.TemporaryDirectory() as scratch:
            for name in ("first", "second"):
                rows.append({"run": name, **run(Path(scratch) / name)})
                print(rows[-1], flush=True)
    ratios = {}
    for part in ("first_step", "command"):
        first, second = (
            common.median([row[part] for row in rows if row["run"] == name])
            for name in ("first", "second")
        )
        ratios[part] = first / second
        print(
            f"{part:10} {first:.2f} s, second run {second:.2f} s: {ratios[part]:.1f} times sooner"
        )
    common.write(arguments.json, rows, ratios=ratios)


if __name__ == "__main__":
    main()
