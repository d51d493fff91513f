"""A stage as a configuration runs it, and the same training as a plain loop in PyTorch."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxdistill.config.schema import Config
from jaxdistill.data.dataset import Dataset
from jaxdistill.distill.trainer import Trainer, make_trainer, run_seed
from jaxdistill.models.registry import Model
from support.torch_terms import rate_at, value_at

SEED = 3


@dataclasses.dataclass(frozen=True)
class Run:
    """What a stage did.

    Attributes:
      training: the rows of its telemetry, one for each step.
      evaluations: those of its evaluations.
      trained: the model that it hands on.
      examples: the real examples of each step, as the split numbers them.
      projections: the maps between widths that it began with, by term and student layer.
    """

    training: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]
    trained: Model
    examples: list[np.ndarray]
    projections: dict[str, dict[str, np.ndarray]]
    trainer: Trainer


def run_stage(
    config: Config, dataset: Dataset, student: Model, teacher: Model | None, folder: Path
) -> Run:
    """Train the student as a run does: with a teacher it is distilled."""
    stage = "baseline" if teacher is None else "distill"
    trainer = make_trainer(config, config.train, dataset, student, stage=stage, teacher=teacher)
    state = trainer.start(trainer.layout.lay_out(student), SEED).state
    projections = {
        name: {layer: np.array(kernel) for layer, kernel in kernels.items()}
        for name, kernels in state.params["projections"].items()
    }
    trained, result = run_seed(trainer, student, folder, SEED)
    source = trainer.make_source(SEED)
    indices = [source.info(step).index for step in range(result.steps)]
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return Run(
        training=[row for row in rows if "event" not in row],
        evaluations=[row for row in rows if row.get("event") == "evaluation"],
        trained=trained,
        examples=[index[index >= 0] for index in indices],
        projections=projections,
        trainer=trainer,
    )


class PlainLoop:
    """A training loop as one writes it by hand, in float64: AdamW over whole batches."""

    def __init__(self, config: Config, model: Any, projections: dict[str, Any], total: int) -> None:
        """Take a model on PyTorch, which is trained in place, and the maps between widths."""
        import torch

        self.train, self.total = config.train, total
        self.terms = {name: term.model_dump() for name, term in config.terms.items()}
        self.model = model.double().eval()  # in evaluation mode there is no dropout
        self.average = copy.deepcopy(self.model) if config.train.ema else None
        self.projections = {
            name: {
                int(layer): torch.nn.Parameter(torch.tensor(kernel, dtype=torch.float64))
                for layer, kernel in kernels.items()
            }
            for name, kernels in projections.items()
        }
        maps = [kernel for kernels in self.projections.values() for kernel in kernels.values()]
        self.parameters = [*self.model.parameters(), *maps]
        decayed = [leaf for leaf in self.parameters if leaf.ndim > 1]
        others = [leaf for leaf in self.parameters if leaf.ndim <= 1]
        options = config.train.optimizer_options
        self.optimizer = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": config.train.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=config.train.learning_rate,
            betas=(options.get("b1", 0.9), options.get("b2", 0.999)),
            eps=options.get("eps", 1e-8),
        )
        warmup = self.train.warmup * total if self.train.warmup < 1 else self.train.warmup
        self.rate = lambda step: rate_at(self.train.schedule, round(warmup), step, total)
        self.step = 0

    def update(self, values: dict[str, Any]) -> dict[str, float]:
        """Take the means of the terms at this step; return what is told of the step."""
        import torch

        weights = {
            name: value_at(self.terms[name]["weight"], self.step, self.total) for name in values
        }
        loss = sum(weights[name] * value for name, value in values.items())
        self.optimizer.zero_grad()
        loss.backward()
        limit = self.train.clip_norm or float("inf")
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, limit)
        rate = self.train.learning_rate * self.rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.step += 1
        if self.average is not None:
            pairs = zip(self.average.parameters(), self.model.parameters(), strict=True)
            with torch.no_grad():
                for slow, new in pairs:
                    slow.lerp_(new, 1 - self.train.ema)
        told = {"loss": loss, **values, "gradient_norm": norm, "learning_rate": rate}
        return {name: float(torch.as_tensor(value).detach()) for name, value in told.items()}

    @property
    def result(self) -> Any:
        """The model that is measured and handed on."""
        return self.model if self.average is None else self.average


def assert_same_curve(
    run: Run,
    loop: PlainLoop,
    means: Callable[[np.ndarray], dict[str, Any]],
    measure: Callable[[], float],
    *,
    tolerance: float = 2e-6,
) -> None:
    """Compare every number that is told of every step, and each evaluation.

    Args:
      run: the stage.
      loop: which has not begun.
      means: the terms of some examples with the loop's model as it is, as PyTorch scalars.
      measure: the loss of the validation split with the loop's result.
      tolerance: relative, of losses; five times that for terms, gradients and rates.
    """
    measured = {row["step"]: row["loss"] for row in run.evaluations}
    assert max(measured) == loop.total == len(run.training)
    for row, examples in zip(run.training, run.examples, strict=True):
        expected = loop.update(means(examples))
        assert row["step"] == loop.step
        for name, value in expected.items():
            # The loss is a sum; what it is made of may be small, or nearly cancel.
            within = tolerance if name == "loss" else 5 * tolerance
            np.testing.assert_allclose(
                row[name], value, rtol=within, err_msg=f"{name}, step {loop.step}"
            )
        if loop.step in measured:
            np.testing.assert_allclose(
                measured[loop.step], measure(), rtol=tolerance, err_msg=f"evaluation {loop.step}"
            )
