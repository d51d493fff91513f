"""Which part of a teacher's outputs is kept on disk, and whether the objective can do with it."""

from __future__ import annotations

from jaxdistill.config.base import ScheduleConfig
from jaxdistill.config.schema import CacheConfig, Config
from jaxdistill.errors import ConfigError
from jaxdistill.methods.registry import methods
from jaxdistill.teachers import targets
from jaxdistill.teachers.cache import codecs
from jaxdistill.types import Json


def choose_codec(config: Config) -> codecs.Codec:
    """Return the configured codec, at the temperature of the objective.

    Raises:
      ConfigError: the objective needs more of the teacher than the codec keeps.
    """
    wanted = config.cache or CacheConfig()
    name = wanted.codec or config.default_codec
    options: Json = {}
    if name in ("full", "hidden") and wanted.dtype is not None:
        options["dtype"] = wanted.dtype
    if name == "topk":
        options["k"] = wanted.k
    if name == "sampled":
        options |= {"samples": wanted.samples, "seed": wanted.seed}
    if name in ("topk", "sampled"):
        options["temperature"] = _temperature(config, name)
    codec = codecs.make_codec(name, **options)
    check_objective(config, codec)
    return codec


def check_objective(config: Config, codec: codecs.Codec) -> None:
    """Check that every term can be computed from what the codec keeps.

    Raises:
      ConfigError: names the first one that cannot.
    """
    if reason := targets.obstacle(config):
        raise ConfigError(
            f"teacher.cache: {reason}, which no cache holds; drop it, or train without a cache"
        )
    if isinstance(codec, codecs.Full if config.task_record.over_vocabulary else codecs.Hidden):
        others = [name for name in ("full", "topk", "sampled", "hidden") if name != codec.name]
        raise ConfigError(
            f"cache.codec: got {codec.name!r} for {config.task}, expected one of "
            f"{', '.join(others)}: full is for few classes, hidden for language models"
        )
    if isinstance(codec, codecs.Hidden) and config.losses == "dense":
        raise ConfigError("losses: got 'dense' with the codec hidden, expected 'fused'")
    if isinstance(codec, codecs.Full | codecs.Hidden):
        return
    for name, term in config.terms.items():
        known = [name for name, method in methods().items() if codec.name in method.cached]
        if term.method.reads == "logits" and term.loss not in known:
            raise ConfigError(
                f"objective.{name}.loss: got {term.loss!r} with the codec {codec.name}, expected "
                f"one of {', '.join(known)}; or write the cache with cache.codec=full"
            )
    if (wanted := _temperature(config, codec.name)) != codec.temperature:
        raise ConfigError(
            f"teacher.cache: got a cache at temperature {codec.temperature}, expected {wanted} as "
            f"the objective has; {codec.name} holds one temperature: write it again, or set that"
        )


def _temperature(config: Config, codec: str) -> float:
    """Return the one temperature of the terms that compare logits."""
    fix = (
        f"{codec} holds one temperature; use cache.codec=full, or hidden for a language model, "
        "for others"
    )
    found: dict[str, float] = {}
    for name, term in config.terms.items():
        temperature = term.options.get("temperature")
        if temperature is None:
            continue
        if isinstance(temperature, ScheduleConfig):
            raise ConfigError(
                f"objective.{name}.temperature: got a schedule, expected a number: {fix}"
            )
        found[name] = temperature
    if len(set(found.values())) > 1:
        raise ConfigError(f"objective: got terms at the temperatures {found}, expected one: {fix}")
    return next(iter(found.values()), 1.0)
