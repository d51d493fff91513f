"""Texts that a teacher writes to a file, line by line: the data of sequence-level distillation."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from jaxdistill.config.load import differences
from jaxdistill.errors import CheckpointError, ConfigError, DataError, Preempted
from jaxdistill.files.atomic import sync
from jaxdistill.files.json_files import read_object, write_json
from jaxdistill.generation.decode import generate
from jaxdistill.generation.writing import end_tokens
from jaxdistill.models.family import Model
from jaxdistill.parallel import sharding
from jaxdistill.runtime import group, preemption
from jaxdistill.types import Json


def write_texts(
    model: Model,
    prompts: Sequence[np.ndarray],
    path: Path,
    *,
    line: Callable[[int, list[int]], Mapping[str, object]],
    identity: Mapping[str, object],
    max_new_tokens: int,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    eos_id: int | Sequence[int] | None = None,
    vocabulary: int | None = None,
    seed: int = 0,
    batch_size: int = 32,
    force: bool = False,
    mesh: Mesh | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Json:
    """Let a teacher continue prompts and keep a line of JSON for each, in their order.

    Sequence-level knowledge distillation (Kim and Rush 2016): the student then learns from the
    teacher's own texts. Lines go to `PATH.part`, which is renamed to `PATH` when all are there;
    `PATH.settings.json` says what they are made from. After a kill the same call goes on behind the
    last whole batch, and the file is the one that an undisturbed call writes.

    Args:
      model: a decoder with its `lm` head.
      prompts: token ids, at least one each.
      path: path of the file.
      line: `(number of the prompt, tokens written behind it) -> what to keep`; without the token
        that ends a text.
      identity: what the texts depend on beside the numbers here, such as teacher and data.
      max_new_tokens, temperature, top_k, top_p, eos_id, vocabulary: arguments of `generate`.
      seed: seed of the draws.
      batch_size: prompts continued at once.
      force: replace what was made in another way.
      mesh: devices that the parameters lie on; of several processes all call with the same prompts,
        and process 0 writes.
      progress: called with the lines that are there and how many there will be.

    Returns:
      `{"texts", "new_texts", "new_tokens", "unfinished", "seconds"}`; `new` is what this call
      wrote, `unfinished` how many texts of it had `max_new_tokens` before they ended.

    Raises:
      ConfigError: `path` was made in another way, or batches do not divide over the mesh.
      DataError: there is no prompt, or one of them is empty.
      Preempted: the process was asked to stop.
    """
    _check(prompts, batch_size)
    settings = {
        "identity": dict(identity),
        "prompts": len(prompts),
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "eos_id": eos_id,
        "vocabulary": vocabulary,
        "seed": seed,
        "batch_size": batch_size,
    }
    part = path.with_name(f"{path.name}.part")
    same = json.loads(json.dumps(settings))
    first = group.first("texts", lambda: _begin(path, part, same, force))
    start, new_tokens, unfinished = time.monotonic(), 0, 0
    for done in range(first, len(prompts), batch_size):
        if preemption.requested():
            raise Preempted(
                f"stopped after {done} of {len(prompts)} texts; run the same command to go on"
            )
        batch = prompts[done : done + batch_size]
        # The last batch is filled up, so that it needs no program of its own.
        ids, mask = _padded([*batch, *[batch[-1]] * (batch_size - len(batch))])
        written = generate(
            model,
            ids,
            mask,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            rng=jax.random.fold_in(jax.random.key(seed), done // batch_size),
            eos_id=eos_id,
            vocabulary=vocabulary,
            mesh=mesh,
        )
        tokens, lengths = sharding.fetch((written.tokens, written.lengths))
        ends = end_tokens(eos_id)
        lines = []
        for index in range(len(batch)):
            row = tokens[index, : lengths[index]]
            new_tokens += len(row)
            ended = row[-1] in ends
            unfinished += not ended
            kept = row[:-1] if ended else row
            lines.append(json.dumps(dict(line(done + index, kept.tolist())), ensure_ascii=False))
        if jax.process_index() == 0:
            with part.open("a", encoding="utf-8") as file:
                file.write("\n".join(lines) + "\n")
                sync(file)
        progress(done + len(batch), len(prompts))
    group.once("texts", lambda: part.is_file() and part.replace(path))
    return {
        "texts": len(prompts),
        "new_texts": len(prompts) - first,
        "new_tokens": new_tokens,
        "unfinished": unfinished,
        "seconds": round(time.monotonic() - start, 3),
    }


def _check(prompts: Sequence[np.ndarray], batch_size: int) -> None:
    if batch_size < 1:
        raise ConfigError(f"batch_size: got {batch_size}, expected at least 1")
    empty = [index for index, prompt in enumerate(prompts) if len(prompt) == 0]
    if empty or not len(prompts):
        got = f"{len(empty)} empty ones, the first is number {empty[0]}" if empty else "none"
        raise DataError(f"prompts: got {got}, expected at least one token in each")


def _padded(prompts: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    length = max(map(len, prompts))
    ids = np.zeros((len(prompts), length), np.int32)
    mask = np.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, length - len(prompt) :] = prompt
        mask[row, length - len(prompt) :] = 1
    return ids, mask


def _changed(marker: Path, settings: Json, force: bool) -> list[str]:
    """List what the texts were made with otherwise; what is damaged may be anything."""
    fix = "give another file, or --force to replace the texts"
    try:
        return differences(read_object(marker, fix=fix), settings)
    except CheckpointError:
        if force:
            return [f"{marker.name} is damaged"]
        raise


def _begin(path: Path, part: Path, settings: Json, force: bool) -> int:
    """Return how many lines are there already, and leave nothing else in `part`."""
    marker = path.with_name(f"{path.name}.settings.json")
    known = marker.is_file()
    changed = _changed(marker, settings, force) if known else []
    if not known and (path.exists() or part.exists()):
        changed = ["it does not say how"]
    if changed and not force:
        raise ConfigError(
            f"{path}: was made with other settings ({', '.join(changed[:5])}); give another file, "
            "or --force to replace it"
        )
    if changed:
        path.unlink(missing_ok=True)
        part.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(marker, settings)
    if path.is_file():
        return int(settings["prompts"])
    content = part.read_bytes() if part.is_file() else b""
    lines = content.splitlines(keepends=True)
    whole = sum(line.endswith(b"\n") for line in lines)
    whole -= whole % settings["batch_size"]
    if lines:
        with part.open("r+b") as file:
            file.truncate(sum(map(len, lines[:whole])))
    return whole
