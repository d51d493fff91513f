"""Of several seeds the best is exported, whichever way the metric counts."""

import json

import jax
import numpy as np
import pytest

from jaxdistill import pipeline
from jaxdistill.config_file import check
from jaxdistill.models.registry import build_model, load_model, save_model
from jaxdistill.workspace import Workspace

VALUES = {0: 0.6, 4: 0.2, 7: 0.4}
MODEL = {"family": "mlp", "hidden_sizes": [3]}


@pytest.mark.parametrize(
    ("task", "metric", "best"),
    [
        ("regression", "mse", 4),
        ("regression", "spearman", 0),
        ("classification", "accuracy", 0),
    ],
)
def test_the_best_seed_is_exported(tmp_path, task, metric, best):
    random = np.random.default_rng(0)
    inputs = random.normal(size=(20, 4)).astype(np.float32)
    labels = inputs[:, 0] if task == "regression" else np.arange(20) % 2
    np.savez(tmp_path / "data.npz", x=inputs, y=labels)
    config = check(
        {
            "task": task,
            "metric": metric,
            "seeds": list(VALUES),
            "data": {"train": str(tmp_path / "data.npz")},
            "teacher": {"model": MODEL},
            "student": {"model": MODEL},
        }
    )
    workspace = Workspace(config, tmp_path / "work", False)
    trained = {}
    for seed in VALUES:
        folder = tmp_path / "work" / "distill" / f"seed-{seed}" / "model"
        model = build_model(
            {**MODEL, "num_features": 4},
            labels=workspace.dataset.labels,
            num_labels=workspace.dataset.num_labels,
            seed=seed,
        )
        save_model(folder, model)
        trained[seed] = model.params
    told = {"seeds": [{"seed": seed, "value": value} for seed, value in VALUES.items()]}
    (tmp_path / "work" / "distill" / "result.json").write_text(json.dumps(told))
    pipeline._STAGES["export"](workspace)
    exported = load_model(tmp_path / "work" / "export" / "student").params
    for seed, params in trained.items():
        same = jax.tree.map(lambda a, b: bool((np.asarray(a) == np.asarray(b)).all()), exported, params)
        assert all(jax.tree.leaves(same)) == (seed == best)
