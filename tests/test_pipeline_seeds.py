"""Of several seeds the best is exported, whichever way the metric counts."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxdistill import pipeline
from jaxdistill.config_file import check
from jaxdistill.models.registry import load_model

TRAIN = {"steps": 2, "batch_size": 16, "learning_rate": 0.1}
VALUES = {0: 0.6, 4: 0.2, 7: 0.4}


def distilled(folder: Path, metric: str) -> tuple[dict[str, Any], Path]:
    """Return a config, and the work directory in which its seeds have been distilled."""
    random = np.random.default_rng(0)
    inputs = random.normal(size=(96, 4)).astype(np.float32)
    np.savez(folder / "data.npz", x=inputs, y=inputs @ random.normal(size=4).astype(np.float32))
    config = {
        "task": "regression",
        "metric": metric,
        "seeds": list(VALUES),
        "data": {"train": str(folder / "data.npz")},
        "teacher": {"model": {"family": "mlp", "hidden_sizes": [8]}},
        "student": {"model": {"family": "mlp", "hidden_sizes": [3]}},
        "finetune": {**TRAIN, "epochs": 30, "steps": None, "learning_rate": 0.01},
        "train": TRAIN,
        "telemetry": {"progress": "none"},
        "parallel": {"data": 1, "compilation_cache": False},
    }
    pipeline.run(check(config), folder / "work", until="distill")
    return config, folder / "work"


@pytest.mark.slow
@pytest.mark.parametrize(("metric", "best"), [("mse", 4), ("pearson", 0)])
def test_the_best_seed_is_exported(tmp_path, metric, best):
    config, workdir = distilled(tmp_path, metric)
    account = workdir / "distill" / "result.json"
    told = json.loads(account.read_text())
    assert [row["seed"] for row in told["seeds"]] == list(VALUES)
    for row in told["seeds"]:
        row["value"] = VALUES[row["seed"]]
    account.write_text(json.dumps(told))
    pipeline.run(check(config), workdir, until="export")
    exported = load_model(workdir / "export" / "student").params
    for seed in VALUES:
        own = load_model(workdir / "distill" / f"seed-{seed}" / "model").params
        same = jax.tree.map(lambda a, b: bool((np.asarray(a) == np.asarray(b)).all()), exported, own)
        assert all(jax.tree.leaves(same)) == (seed == best)
