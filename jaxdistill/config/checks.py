"""Sections of a configuration that do not go together.

Each check raises ValueError with one line that begins with the key.
"""

from __future__ import annotations

from jaxdistill.config.fields import ConfigFields
from jaxdistill.config.objective import TermConfig
from jaxdistill.methods.registry import methods


def check_task_losses(config: ConfigFields) -> None:
    """Refuse losses of another task's labels."""
    wanted = config.task_record.loss
    for name, term in config.objective.items():
        if term.method.reads == "labels" and term.loss != wanted:
            raise ValueError(
                f"objective.{name}.loss: got {term.loss!r} for task {config.task!r}, "
                f"expected {wanted!r}"
            )


def check_metric(config: ConfigFields) -> None:
    """Refuse metrics that the task does not have, and labels that the metric does not look at."""
    known = {metric.name for metric in config.task_record.metrics}
    if config.ranking_metric not in known:
        raise ValueError(
            f"metric: got {config.metric!r} for task {config.task!r}, "
            f"expected one of {sorted(known)}"
        )
    if config.data.positive is not None and config.ranking_metric != "f1":
        raise ValueError(
            f"data.positive: got {config.data.positive!r} for metric {config.ranking_metric!r}, "
            "which is not measured label by label; set metric=f1, or drop data.positive"
        )


def check_objective(config: ConfigFields) -> None:
    """Refuse an objective that is 0 whatever the student does."""
    if not any(term.acts for term in config.terms.values()):
        raise ValueError(
            f"objective: got the weight 0 for every term ({', '.join(config.terms)}), which trains "
            "nothing; give one of them a weight above 0"
        )
    if config.task_record.outputs != "values":
        return
    for name, term in config.terms.items():
        if term.method.compares_classes or term.loss == "bernoulli_kl":
            raise ValueError(
                f"objective.{name}.loss: got {term.loss!r} for task {config.task!r}, whose one "
                "output is no distribution over classes; expected 'mse_logits'"
            )


def check_language_term(config: ConfigFields, name: str, term: TermConfig) -> None:
    """Refuse what a language model's losses cannot do without logits."""
    if not config.task_record.over_vocabulary or config.losses == "dense":
        return
    if not (term.method.fused or term.method.reads_teacher_inside):
        fused = [name for name, method in methods().items() if method.fused]
        raise ValueError(
            f"objective.{name}.loss: got {term.loss!r}, expected one of {fused}, "
            "which need no logits; or set losses=dense"
        )
    if smoothing := term.options.get("label_smoothing"):
        raise ValueError(
            f"objective.{name}.label_smoothing: got {smoothing}, expected 0 without "
            "logits; or set losses=dense"
        )


def check_teacher(config: ConfigFields) -> None:
    """Refuse no teacher, two of them, and what a function cannot be asked for."""
    teacher = config.teacher
    if teacher.function is None:
        if teacher.model is None:
            raise ValueError(
                "teacher.model: got nothing, expected a Hugging Face folder or a mapping with "
                "'family'; give it in the config or as teacher.model=PATH"
            )
        return
    faults = {
        "teacher.model": (teacher.model is not None, "it stands in the model's place; drop one"),
        "finetune": (config.finetune is not None, "it is not trained; set finetune=null"),
        "task": (
            config.task_record.over_vocabulary,
            "it speaks of examples and not of tokens; give teacher.model",
        ),
        "student": (
            config.student.from_teacher,
            "it has no layers to start from; give student.model",
        ),
        "cache": (
            config.cache is not None or teacher.cache is not None,
            "what it says is kept in memory; drop the cache",
        ),
        "teacher.precompute": (
            teacher.precompute is False,
            "it runs before the first step and in none; drop precompute",
        ),
        "data.shift": (bool(config.data.shift), "it speaks of examples as they are; drop shift"),
    }
    for name, (got, why) in faults.items():
        if got:
            raise ValueError(f"{name}: got a value beside teacher.function, but {why}")
    for name, term in config.terms.items():
        if term.method.reads_teacher_inside:
            raise ValueError(
                f"objective.{name}.loss: got {term.loss!r}, which reads the teacher's layers, but "
                "teacher.function has none; choose a loss of logits"
            )


def check_fresh_heads(config: ConfigFields) -> None:
    """Refuse new heads where there is none to draw, or where nothing would train it."""
    for side, section in (("teacher", config.teacher), ("student", config.student)):
        if not section.fresh_head:
            continue
        reason = None
        if config.task_record.over_vocabulary:
            reason = "a language model's head belongs to its vocabulary, not to labels"
        elif isinstance(section.model, dict):
            reason = f"{side}.model is a mapping, whose head is always new"
        elif side == "teacher" and config.finetune is None:
            reason = "finetune is null, so that nothing would train it"
        if reason is not None:
            raise ValueError(f"{side}.fresh_head: got true, but {reason}; drop one of the two")


def check_on_policy(config: ConfigFields) -> None:
    """Refuse students that cannot write, and teachers that cannot be asked about what they did."""
    if config.on_policy is None:
        return
    if not config.task_record.writes:
        raise ValueError(
            f"on_policy: got task {config.task!r}, expected 'language_model', whose student can "
            "write text; or drop on_policy"
        )
    name = "cache" if config.cache is not None else "teacher.cache"
    if config.cache is not None or config.teacher.cache is not None:
        raise ValueError(
            f"on_policy: got {name}, too, but what a cache holds of the teacher says nothing on "
            f"texts that the student writes; drop {name} or on_policy"
        )
    if config.on_policy.prompt_tokens >= config.data.max_length:
        raise ValueError(
            f"on_policy.prompt_tokens: got {config.on_policy.prompt_tokens}, expected fewer than "
            f"data.max_length, {config.data.max_length}, so that there is room to write"
        )
