"""The stages of a run: finetune -> baseline -> distill -> evaluate -> export -> report."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdistill import build
from jaxdistill.config import Config
from jaxdistill.config_file import differences, dump, fingerprint
from jaxdistill.data.dataset import Dataset
from jaxdistill.engine import parallel, preemption
from jaxdistill.engine.loop import LoopResult
from jaxdistill.engine.telemetry import say
from jaxdistill.errors import ConfigError, ModelError
from jaxdistill.inspect import doctor
from jaxdistill.inspect.environment import environment
from jaxdistill.inspect.evaluate import measure_speed
from jaxdistill.inspect.metrics import agreement
from jaxdistill.inspect.report import write_report
from jaxdistill.inspect.uncertainty import difference_error
from jaxdistill.inspect.verdict import verdict
from jaxdistill.models.registry import Model, save_model
from jaxdistill.training import Trainer, make_evaluator, make_trainer, run_seed

log = logging.getLogger("jaxdistill")

STAGES = ("finetune", "baseline", "distill", "evaluate", "export", "report")


def run(
    config: Config, workdir: Path, *, until: str | None = None, force: bool = False
) -> dict[str, Any]:
    """Run the stages in order up to `until`; finished ones are kept, an interrupted one resumes.

    Args:
      config: a checked configuration.
      workdir: every stage owns a folder of it and leaves `result.json` there.
      until: the last stage to run; the report by default.
      force: redo stages whose configuration changed, instead of refusing.

    Returns:
      `result.json` of the work directory where the evaluation has run, else of the last stage.

    Raises:
      ConfigError: a finished or interrupted stage has another configuration, or the doctor found
        something fatal.
      Preempted: the process was asked to stop; running again resumes.
    """
    last = STAGES[-1] if until is None else until
    if last not in STAGES:
        raise ConfigError(f"stage: got {last!r}, expected one of {list(STAGES)}")
    workdir.mkdir(parents=True, exist_ok=True)
    if config.parallel.compilation_cache:
        _keep_compiled_programs(workdir.parent / ".compilation_cache")
    with preemption.watch():
        run_ = _Run(config, workdir, force)
        (workdir / "config.yaml").write_text(dump(config), encoding="utf-8")
        result: dict[str, Any] = {}
        for name in STAGES[: STAGES.index(last) + 1]:
            result = _STAGES[name](run_) or result
        return result


def examine(config: Config, workdir: Path) -> list[doctor.Finding]:
    """Return what the doctor finds in a run's data and models as they are now."""
    return _Run(config, workdir, force=False).examine()


class _Run:
    """What the stages of one run share: data and models, loaded on first use."""

    def __init__(self, config: Config, workdir: Path, force: bool) -> None:
        self.config, self.workdir, self.force = config, workdir, force
        self._dataset: Dataset | None = None
        self._teacher: Model | None = None
        self._examined: bool | None = None
        self._told: set[doctor.Finding] = set()

    @property
    def dataset(self) -> Dataset:
        if self._dataset is None:
            self._dataset = build.load_data(self.config, self.workdir / "cache")
        return self._dataset

    @property
    def finetuned(self) -> Path | None:
        """The folder of the fine-tuned teacher, or None where the teacher is taken as it is."""
        return None if self.config.finetune is None else self.workdir / "finetune" / "model"

    @property
    def teacher(self) -> Model:
        """The teacher as it teaches."""
        if self._teacher is None:
            if self.finetuned is None:
                self._teacher = build.load_teacher(
                    self.config, self.dataset, training=False, seed=self.config.seeds[0]
                )
            else:
                self._teacher = build.load_finetuned(self.finetuned, self.config, self.dataset)
        return self._teacher

    def student(self, seed: int) -> Model:
        return build.make_student(self.config, self.dataset, self.finetuned, seed)

    @property
    def teacher_is_ready(self) -> bool:
        """Whether the teacher is as it will teach: fine-tuned, or taken as it is."""
        return self.finetuned is None or (self.workdir / "finetune" / "result.json").is_file()

    def examine(self) -> list[doctor.Finding]:
        """Let the doctor look at data and models as they are now."""
        config, dataset, seed = self.config, self.dataset, self.config.seeds[0]
        logits, student = None, None
        if self.teacher_is_ready:
            teacher = self.teacher
            evaluate = make_evaluator(config, teacher, parallel.make_mesh(config.parallel.data))
            logits, _ = evaluate(teacher.params, teacher.model_state, dataset.validation)
            student = self.student(seed)
        else:
            teacher = build.load_teacher(config, dataset, training=True, seed=seed)
            if config.student.layers is None or isinstance(config.teacher.model, str):
                student = build.make_student(config, dataset, None, seed)
        return doctor.examine(
            config,
            dataset,
            teacher,
            student,
            teacher_logits=logits,
            teacher_labels=None if logits is None else dataset.validation.labels,
        )

    def check_before(self, stage: str) -> None:
        """Stop an unfinished stage at fatal findings; tell warnings once.

        Looks before the first stage, and again when the teacher has been fine-tuned.
        """
        done = (self.workdir / stage / "result.json").is_file()
        if done or self._examined == self.teacher_is_ready:
            return
        self._examined = self.teacher_is_ready
        findings = self.examine()
        write_json(
            self.workdir / "doctor.json", [dataclasses.asdict(finding) for finding in findings]
        )
        for finding in findings:
            if finding.level == "warning" and finding not in self._told:
                self._told.add(finding)
                say(f"doctor  warning: {finding.name}: {finding.message}")
        doctor.stop_if_fatal(findings)

    def settings(self, *names: str) -> dict[str, Any]:
        """Return the parts of the configuration that decide a stage's result."""
        whole: dict[str, Any] = self.config.model_dump(mode="json")
        whole["parallel"].pop("compilation_cache")
        for name in ("cache", "prefetch", "test"):
            whole["data"].pop(name)
        return {name: whole[name] for name in ("task", "metric", "data", "parallel", *names)}


def _stage(
    run_: _Run, name: str, settings: dict[str, Any], work: Callable[[Path], dict[str, Any]]
) -> dict[str, Any]:
    """Do a stage's work unless its result is there; refuse to mix two configurations."""
    folder = run_.workdir / name
    wanted = {"settings": settings, "data": run_.dataset.fingerprint}
    marker, result_file = folder / "settings.json", folder / "result.json"
    done = result_file.is_file()
    if marker.is_file():
        before = json.loads(marker.read_text(encoding="utf-8"))
        changed = differences(before, json.loads(json.dumps(wanted)))
        # A stage that failed before its first checkpoint left nothing worth asking about.
        if changed and not any(path.is_dir() for path in folder.iterdir()) and not done:
            shutil.rmtree(folder)
        elif changed:
            shown = ", ".join(item.removeprefix("settings.") for item in changed[:5])
            if not run_.force:
                raise ConfigError(
                    f"{name}: {folder} was made with other settings ({shown}); use another "
                    "--workdir, or --force to redo this stage"
                )
            say(f"{name}  redone, changed: {shown}")
            shutil.rmtree(folder)
    if result_file.is_file():
        say(f"{name}  done before, kept")
        return json.loads(result_file.read_text(encoding="utf-8"))
    folder.mkdir(parents=True, exist_ok=True)
    write_json(marker, wanted)
    start = time.monotonic()
    result = {"fingerprint": fingerprint(wanted), **work(folder)}
    result["stage_seconds"] = round(time.monotonic() - start, 2)
    write_json(result_file, result)
    return result


def _finetune(run_: _Run) -> dict[str, Any]:
    config, dataset = run_.config, run_.dataset
    if config.finetune is None:
        return {}
    train_config, seed = config.finetune, config.seeds[0]

    def work(folder: Path) -> dict[str, Any]:
        model = build.load_teacher(config, dataset, training=True, seed=seed)
        trainer = make_trainer(config, train_config, dataset, model, stage="finetune")
        trained, result = run_seed(trainer, model, folder, seed)
        save_model(folder / "model", trained)
        return _account(config, result, seed)

    settings: dict[str, Any] = run_.settings("teacher", "finetune") | {"seed": seed}
    settings["teacher"].pop("dtype")
    run_.check_before("finetune")
    return _stage(run_, "finetune", settings, work)


def _students(run_: _Run, name: str) -> dict[str, Any]:
    config = run_.config
    distils = name == "distill"

    def work(folder: Path) -> dict[str, Any]:
        trainer: Trainer | None = None
        accounts = []
        for seed in config.seeds:
            own = folder / f"seed-{seed}"
            done = own / "result.json"
            if done.is_file():
                accounts.append(json.loads(done.read_text(encoding="utf-8")))
                continue
            student = run_.student(seed)
            if trainer is None:
                trainer = make_trainer(
                    config,
                    config.train,
                    run_.dataset,
                    student,
                    stage=name,
                    teacher=run_.teacher if distils else None,
                )
            trained, result = run_seed(trainer, student, own, seed)
            save_model(own / "model", trained)
            accounts.append(_account(config, result, seed))
            write_json(done, accounts[-1])
        return {"metric": config.ranking_metric, "seeds": accounts}

    parts = ["student", "train", "seeds", "teacher"]
    if distils or config.student.initialize_from == "finetuned":
        parts.append("finetune")
    if distils:
        parts.append("objective")
    run_.check_before(name)
    return _stage(run_, name, run_.settings(*parts), work)


def _baseline(run_: _Run) -> dict[str, Any]:
    return _students(run_, "baseline")


def _distill(run_: _Run) -> dict[str, Any]:
    return _students(run_, "distill")


def _evaluate(run_: _Run) -> dict[str, Any]:
    config, dataset = run_.config, run_.dataset
    split = dataset.validation if dataset.test is None else dataset.test

    def work(folder: Path) -> dict[str, Any]:
        mesh = parallel.make_mesh(config.parallel.data)

        def predict(model: Model) -> tuple[np.ndarray, float]:
            evaluate = make_evaluator(config, model, mesh)
            logits, values = evaluate(model.params, model.model_state, split)
            return logits, values[config.ranking_metric]

        teacher_logits, teacher_value = predict(run_.teacher)
        rows = {"teacher": _measured(run_, run_.teacher, [teacher_value], [1.0])}
        predictions: dict[str, Any] = {"labels": split.labels, "teacher_logits": teacher_logits}
        for arm, stage, short in (
            ("student_alone", "baseline", "alone"),
            ("student_distilled", "distill", "distilled"),
        ):
            models = [_trained(run_, stage, seed) for seed in config.seeds]
            measured = [predict(model) for model in models]
            agreements = [agreement(logits, teacher_logits, config.task) for logits, _ in measured]
            rows[arm] = _measured(run_, models[0], [value for _, value in measured], agreements)
            predictions[f"{short}_logits"] = np.stack([logits for logits, _ in measured])
        np.savez_compressed(folder / "predictions.npz", allow_pickle=False, **predictions)
        result = {
            "metric": config.ranking_metric,
            "higher_is_better": config.higher_is_better,
            "split": "validation" if dataset.test is None else "test",
            "examples": len(split),
            **rows,
            "seeds": list(config.seeds),
            "evaluation_error": difference_error(
                config.task,
                predictions["alone_logits"],
                predictions["distilled_logits"],
                split.labels,
                config.ranking_metric,
            ),
            "environment": environment(),
        }
        return {**result, "verdict": verdict(result)}

    settings = run_.settings("student", "train", "seeds", "teacher", "finetune", "objective")
    settings["test"] = config.data.test
    result = _stage(run_, "evaluate", settings, work)
    write_json(run_.workdir / "result.json", result)
    return result


def _export(run_: _Run) -> dict[str, Any]:
    """Put the distilled student that did best on the validation split under `export/student`."""
    seeds = json.loads((run_.workdir / "distill" / "result.json").read_text(encoding="utf-8"))[
        "seeds"
    ]
    pick = max if run_.config.higher_is_better else min
    best = pick(seeds, key=lambda account: account["value"])
    target = run_.workdir / "export" / "student"
    save_model(
        target, _trained(run_, "distill", best["seed"]), tokenizer_from=_tokenizer_folder(run_)
    )
    say(f"export  {target} (seed {best['seed']})")
    return {}


def _report(run_: _Run) -> dict[str, Any]:
    path = write_report(run_.workdir)
    say(f"report  {path}")
    return json.loads((run_.workdir / "result.json").read_text(encoding="utf-8"))


_STAGES: dict[str, Callable[[_Run], dict[str, Any]]] = {
    "finetune": _finetune,
    "baseline": _baseline,
    "distill": _distill,
    "evaluate": _evaluate,
    "export": _export,
    "report": _report,
}


def _trained(run_: _Run, stage: str, seed: int) -> Model:
    folder = run_.workdir / stage / f"seed-{seed}" / "model"
    if not folder.is_dir():
        raise ModelError(f"{folder}: missing; run the stage {stage!r} first")
    return build.load_finetuned(folder, run_.config, run_.dataset)


def _measured(
    run_: _Run, model: Model, values: list[float], agreements: list[float]
) -> dict[str, Any]:
    speed = measure_speed(model, run_.dataset, run_.config)
    return {
        "values": values,
        "parameters": build.count_parameters(model.params),
        "bytes": build.count_bytes(model.params),
        "latency_ms": speed.latency_ms,
        "examples_per_second": speed.examples_per_second,
        "agreement": agreements,
    }


def _account(config: Config, result: LoopResult, seed: int) -> dict[str, Any]:
    return {
        "seed": seed,
        "metric": config.ranking_metric,
        "value": result.progress.best_value,
        "best_step": result.progress.best_step,
        "steps": result.steps,
        "seconds": round(result.seconds, 3),
        "seconds_to_first_step": result.seconds_to_first_step,
        "examples_per_second": round(result.examples_per_second, 2),
        "tokens_per_second": round(result.tokens_per_second, 2),
        "padding": round(result.padding, 5),
    }


def _tokenizer_folder(run_: _Run) -> Path | None:
    for origin in (run_.config.teacher.model, run_.config.student.model):
        if isinstance(origin, str) and (Path(origin) / "tokenizer_config.json").is_file():
            return Path(origin)
    return None


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a kill leaves the old file or the new one, never half of one."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)


def _keep_compiled_programs(folder: Path) -> None:
    jax.config.update("jax_compilation_cache_dir", str(folder.resolve()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
