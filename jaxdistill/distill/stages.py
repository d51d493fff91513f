"""The stages of a run: finetune -> cache -> baseline -> distill -> evaluate -> export -> report."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from jaxdistill.config.schema import CacheConfig, Config
from jaxdistill.data.dataset import image_processor
from jaxdistill.data.text.ends import generation_config_of
from jaxdistill.distill import cache_stage, workdir_lock
from jaxdistill.distill import models as build
from jaxdistill.distill.evaluator import make_evaluator, measure
from jaxdistill.distill.results import account_of, compare
from jaxdistill.distill.trainer import Trainer, make_trainer, run_seed
from jaxdistill.distill.workspace import EVALUATED, Workspace, read_result, run_stage
from jaxdistill.doctor import doctor
from jaxdistill.engine.telemetry import say
from jaxdistill.errors import ConfigError, ModelError
from jaxdistill.evaluation.report import write_report
from jaxdistill.files.json_files import write_json
from jaxdistill.models.registry import Model, save_model
from jaxdistill.parallel.mesh import mesh_of
from jaxdistill.runtime import group, preemption
from jaxdistill.teachers.cache import manifest
from jaxdistill.types import Json

log = logging.getLogger("jaxdistill")

STAGES = ("finetune", "cache", "baseline", "distill", "evaluate", "export", "report")


def run(config: Config, workdir: Path, *, until: str | None = None, force: bool = False) -> Json:
    """Run the stages in order up to `until`; finished ones are kept, an interrupted one resumes.

    Args:
      config: a checked configuration.
      workdir: every stage owns a folder of it and leaves `result.json` there.
      until: the last stage to run; the report by default.
      force: redo stages whose configuration changed, instead of refusing.

    Returns:
      `result.json` of the work directory where the evaluation has run, else of the last stage.

    Raises:
      ConfigError: a finished or interrupted stage has another configuration, the doctor found
        something fatal, or another run is at work in the folder.
      Preempted: the process was asked to stop; running again resumes.
    """
    last = STAGES[-1] if until is None else until
    if last not in STAGES:
        raise ConfigError(f"stage: got {last!r}, expected one of {list(STAGES)}")
    if last == "cache" and config.cache is None:
        config = config.model_copy(update={"cache": CacheConfig()})
    workdir.mkdir(parents=True, exist_ok=True)
    workspace = Workspace(config, workdir, force)
    if until == "report" and group.decide("finished", workspace.is_evaluated):
        return _report(workspace)
    if config.parallel.compilation_cache:
        _keep_compiled_programs(workdir.parent / ".compilation_cache")
    with workdir_lock.held(workdir), preemption.watch():
        result: Json = {}
        for name in STAGES[: STAGES.index(last) + 1]:
            result = _STAGES[name](workspace) or result
        group.barrier("end")
        return result


def examine(config: Config, workdir: Path) -> list[doctor.Finding]:
    """Return what the doctor finds in a run's data and models as they are now."""
    return Workspace(config, workdir, force=False).examine()


def _finetune(workspace: Workspace) -> Json:
    config, dataset = workspace.config, workspace.dataset
    if config.finetune is None:
        return {}
    train_config, seed = config.finetune, config.seeds[0]

    def work(folder: Path) -> Json:
        model = build.load_teacher(config, dataset, training=True, seed=seed)
        trainer = make_trainer(config, train_config, dataset, model, stage="finetune")
        trained, result = run_seed(trainer, model, folder, seed)
        _save(folder / "model", trained, workspace)
        return account_of(config, result, seed)

    settings: Json = workspace.settings("teacher", "finetune") | {"seed": seed}
    for name in ("dtype", "precompute", "storage"):
        settings["teacher"].pop(name)
    workspace.check_before("finetune")
    return run_stage(workspace, "finetune", settings, work)


def _cache(workspace: Workspace) -> Json:
    """Write the teacher's outputs where the configuration asks for it, and check those it reads."""
    config, path = workspace.config, workspace.cache_path
    if path is None:
        return {}
    result = {}
    if config.cache is not None:

        def work(folder: Path) -> Json:
            found = cache_stage.write(
                config, workspace.dataset, workspace.teacher, path, workspace.identity()
            )
            say(f"cache  {path}\n{cache_stage.describe(found)}")
            return found

        if not group.decide("cache", (path / manifest.MANIFEST).is_file):
            left = workspace.workdir / "cache" / "result.json"
            group.once("cache", lambda: left.unlink(missing_ok=True))
        settings = workspace.settings("teacher", "finetune", "cache")
        workspace.check_before("cache")
        result = run_stage(workspace, "cache", settings, work)
    # Now, and not after the baseline.
    assert workspace.cache is not None
    return result


def _students(workspace: Workspace, name: str) -> Json:
    config = workspace.config
    distils = name == "distill"

    def work(folder: Path) -> Json:
        trainer: Trainer | None = None
        accounts = []
        for seed in config.seeds:
            own = folder / f"seed-{seed}"
            done = own / "result.json"
            if group.decide(f"seed {seed}", done.is_file):
                accounts.append(read_result(own, "seed", "value"))
                continue
            student = workspace.student(seed)
            if trainer is None:
                trainer = make_trainer(
                    config,
                    config.train,
                    workspace.dataset,
                    student,
                    stage=name,
                    teacher=workspace.speaker if distils else None,
                )
            trained, result = run_seed(trainer, student, own, seed)
            _save(own / "model", trained, workspace)
            accounts.append(account_of(config, result, seed))
            group.once("account", functools.partial(write_json, done, accounts[-1]))
        return {"metric": config.ranking_metric, "seeds": accounts}

    parts = ["student", "train", "seeds", "teacher"]
    if distils or config.student.initialize_from == "finetuned":
        parts.append("finetune")
    if distils:
        parts += ["objective", "cache", "on_policy"]
    workspace.check_before(name)
    return run_stage(workspace, name, workspace.settings(*parts), work)


def _baseline(workspace: Workspace) -> Json:
    return _students(workspace, "baseline")


def _distill(workspace: Workspace) -> Json:
    return _students(workspace, "distill")


def _evaluate(workspace: Workspace) -> Json:
    config, dataset = workspace.config, workspace.dataset
    split = dataset.validation if dataset.test is None else dataset.test

    def work(folder: Path) -> Json:
        mesh = mesh_of(config.parallel.sizes)

        def predict(model: Model) -> tuple[np.ndarray, dict[str, float]]:
            evaluate = make_evaluator(config, model, mesh, positive=dataset.positive)
            return evaluate(model.params, model.model_state, split)

        arms = {"teacher": [workspace.teacher]} if config.teacher.function is None else {}
        for arm, stage in (("student_alone", "baseline"), ("student_distilled", "distill")):
            arms[arm] = [_trained(workspace, stage, seed) for seed in config.seeds]
        predicted = {arm: [predict(model) for model in models] for arm, models in arms.items()}
        examples = {arm: models[0] for arm, models in arms.items()}
        if config.teacher.function is not None:
            said = workspace.speak(split)
            told = measure(config, said, split, dataset.positive)
            predicted = {"teacher": [(said, told)], **predicted}
        return group.first("compare", lambda: compare(workspace, folder, examples, predicted))

    settings = workspace.settings(*EVALUATED)
    settings["test"] = None if dataset.test is None else dataset.test.fingerprint
    result = run_stage(workspace, "evaluate", settings, work)
    group.once("result", lambda: write_json(workspace.workdir / "result.json", result))
    return result


def _export(workspace: Workspace) -> Json:
    """Put the distilled student that did best on the validation split under `export/student`."""
    group.once("export", lambda: _export_best(workspace))
    return {}


def _export_best(workspace: Workspace) -> None:
    seeds = read_result(workspace.workdir / "distill", "seeds")["seeds"]
    pick = max if workspace.config.higher_is_better else min
    best = pick(seeds, key=lambda account: account["value"])
    target = workspace.workdir / "export" / "student"
    _write(target, _trained(workspace, "distill", best["seed"]), workspace)
    say(f"export  {target} (seed {best['seed']})")


def _report(workspace: Workspace) -> Json:
    def write() -> Json:
        path = write_report(workspace.workdir)
        say(f"report  {path}")
        return read_result(workspace.workdir)

    return group.first("report", write)


_STAGES: dict[str, Callable[[Workspace], Json]] = {
    "finetune": _finetune,
    "cache": _cache,
    "baseline": _baseline,
    "distill": _distill,
    "evaluate": _evaluate,
    "export": _export,
    "report": _report,
}


def _save(folder: Path, model: Model, workspace: Workspace) -> None:
    group.once("save", lambda: _write(folder, model, workspace))


def _write(folder: Path, model: Model, workspace: Workspace) -> None:
    """Write a model with what read its inputs: the tokenizer, cutting rows where that was done, or
    the preprocessing of images; one that writes, with what ends its texts."""
    config, dataset = workspace.config, workspace.dataset
    task = config.task_record
    cuts = dataset.tokenizer is not None and not task.documents
    save_model(
        folder,
        model,
        tokenizer_from=dataset.tokenizer,
        max_length=config.data.max_length if cuts else None,
        processor=image_processor(dataset),
        generation=generation_config_of(config, dataset) if task.writes else None,
    )


def _trained(workspace: Workspace, stage: str, seed: int) -> Model:
    folder = workspace.workdir / stage / f"seed-{seed}" / "model"
    if not folder.is_dir():
        raise ModelError(f"{folder}: missing; run the stage {stage!r} first")
    return build.load_finetuned(folder, workspace.config, workspace.dataset)


def _keep_compiled_programs(folder: Path) -> None:
    jax.config.update("jax_compilation_cache_dir", str(folder.resolve()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
