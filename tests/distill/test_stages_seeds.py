"""Which seed is exported, and whose settings a stage trains with."""

import json

import jax
import numpy as np
import pytest

from jaxdistill.config.load import check
from jaxdistill.distill import stages
from jaxdistill.distill.workspace import Workspace
from jaxdistill.models.registry import build_model, load_model, save_model

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
    stages._STAGES["export"](workspace)
    exported = load_model(tmp_path / "work" / "export" / "student").params
    for seed, params in trained.items():
        same = jax.tree.map(
            lambda a, b: bool((np.asarray(a) == np.asarray(b)).all()), exported, params
        )
        assert all(jax.tree.leaves(same)) == (seed == best)


@pytest.mark.slow
def test_the_teacher_is_trained_with_its_own_settings_and_the_first_seed(tmp_path):
    random = np.random.default_rng(0)
    inputs = random.normal(size=(80, 4)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=inputs, y=inputs[:, 0] + inputs[:, 1])
    rest = {"batch_size": 16, "evaluate_every": 100}
    config = check(
        {
            "task": "regression",
            "seeds": [5, 2],
            "data": {"train": str(tmp_path / "data.npz")},
            "teacher": {"model": MODEL},
            "student": {"model": MODEL},
            "finetune": {"steps": 3, "learning_rate": 0.02, "schedule": "constant", "warmup": 0}
            | rest,
            "train": {"steps": 7, "learning_rate": 0.5} | rest,
            "telemetry": {"progress": "none", "log_every": 1},
            "parallel": {"data": 1, "compilation_cache": False},
        }
    )
    result = stages.run(config, tmp_path / "work", until="finetune")
    assert (result["steps"], result["seed"]) == (3, 5)
    lines = (tmp_path / "work" / "finetune" / "metrics.jsonl").read_text().splitlines()
    rates = [row["learning_rate"] for row in map(json.loads, lines) if "event" not in row]
    np.testing.assert_allclose(rates, [0.02] * 3, rtol=1e-6)
