"""Knowledge distillation in JAX: fine-tune a teacher, distil a student, prove what was gained."""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from jaxdistill import losses
    from jaxdistill.config.base import Section
    from jaxdistill.config.sources import Source, register_source
    from jaxdistill.config.teacher_functions import register_teacher
    from jaxdistill.data.inputs.inputs import Arrays, Inputs
    from jaxdistill.data.inputs.reading import Found
    from jaxdistill.data.label_space import LabelSpace
    from jaxdistill.doctor.findings import Finding
    from jaxdistill.engine.frozen import Frozen, merge_parameters, split_parameters
    from jaxdistill.engine.hooks import Hooks, register_hooks
    from jaxdistill.engine.mean import Mean
    from jaxdistill.engine.objective import (
        Objective,
        Term,
        features_term,
        logits_term,
        task_term,
    )
    from jaxdistill.engine.on_policy_step import make_on_policy_step
    from jaxdistill.engine.state import TrainState
    from jaxdistill.engine.step import make_eval_step, make_train_step
    from jaxdistill.errors import DataError
    from jaxdistill.generation.decode import generate
    from jaxdistill.generation.rollout import make_continue
    from jaxdistill.methods.method import Method
    from jaxdistill.methods.registry import register_method
    from jaxdistill.modalities.modality import Field, Modality
    from jaxdistill.modalities.registry import register_modality
    from jaxdistill.models.outputs import Outputs
    from jaxdistill.models.registered import register_family
    from jaxdistill.models.registry import Model, build_model, load_model, save_model
    from jaxdistill.parallel.compilation import (
        compile_step,
        place_batch,
        pmap_step,
        replicate,
        unreplicate,
    )
    from jaxdistill.parallel.mesh import make_mesh
    from jaxdistill.parallel.sharding import parameter_shardings, state_shardings
    from jaxdistill.planning.plan import plan
    from jaxdistill.tasks.registry import register_task
    from jaxdistill.tasks.task import Metric, Task
    from jaxdistill.teachers.cache.reader import open_cache
    from jaxdistill.teachers.cache.writer import CacheWriter

__all__ = [
    "Arrays",
    "CacheWriter",
    "DataError",
    "Field",
    "Finding",
    "Found",
    "Frozen",
    "Hooks",
    "Inputs",
    "LabelSpace",
    "Mean",
    "Method",
    "Metric",
    "Modality",
    "Model",
    "Objective",
    "Outputs",
    "Section",
    "Source",
    "Task",
    "Term",
    "TrainState",
    "__version__",
    "build_model",
    "compile_step",
    "features_term",
    "generate",
    "load_model",
    "logits_term",
    "losses",
    "make_continue",
    "make_eval_step",
    "make_mesh",
    "make_on_policy_step",
    "make_train_step",
    "merge_parameters",
    "open_cache",
    "parameter_shardings",
    "place_batch",
    "plan",
    "pmap_step",
    "register_family",
    "register_hooks",
    "register_method",
    "register_modality",
    "register_source",
    "register_task",
    "register_teacher",
    "replicate",
    "save_model",
    "split_parameters",
    "state_shardings",
    "task_term",
    "unreplicate",
]

_HOMES = {
    "config.base": ("Section",),
    "config.sources": ("Source", "register_source"),
    "data.label_space": ("LabelSpace",),
    "config.teacher_functions": ("register_teacher",),
    "methods.method": ("Method",),
    "methods.registry": ("register_method",),
    "tasks.registry": ("register_task",),
    "tasks.task": ("Metric", "Task"),
    "modalities.modality": ("Field", "Modality"),
    "modalities.registry": ("register_modality",),
    "data.inputs.inputs": ("Arrays", "Inputs"),
    "data.inputs.reading": ("Found",),
    "doctor.findings": ("Finding",),
    "errors": ("DataError",),
    "engine.objective": ("Objective", "Term", "features_term", "logits_term", "task_term"),
    "parallel.mesh": ("make_mesh",),
    "engine.on_policy_step": ("make_on_policy_step",),
    "parallel.compilation": (
        "compile_step",
        "place_batch",
        "pmap_step",
        "replicate",
        "unreplicate",
    ),
    "engine.frozen": ("Frozen", "merge_parameters", "split_parameters"),
    "engine.hooks": ("Hooks", "register_hooks"),
    "engine.mean": ("Mean",),
    "parallel.sharding": ("parameter_shardings", "state_shardings"),
    "engine.state": ("TrainState",),
    "engine.step": ("make_eval_step", "make_train_step"),
    "planning.plan": ("plan",),
    "generation.rollout": ("make_continue",),
    "generation.decode": ("generate",),
    "models.outputs": ("Outputs",),
    "models.registered": ("register_family",),
    "models.registry": ("Model", "build_model", "load_model", "save_model"),
    "teachers.cache.reader": ("open_cache",),
    "teachers.cache.writer": ("CacheWriter",),
}


def __getattr__(name: str) -> Any:
    # The command line answers without importing jax; a name brings its module on first use.
    if name == "losses":
        return importlib.import_module("jaxdistill.losses")
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"jaxdistill.{home}"), name)
    raise AttributeError(f"module 'jaxdistill' has no attribute {name!r}")
