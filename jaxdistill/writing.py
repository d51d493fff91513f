"""Texts that a run's teacher writes to a file, which a student is then trained on."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxdistill import pipeline
from jaxdistill.config import Config
from jaxdistill.data.corpus import Corpus, tokenize_documents
from jaxdistill.data.documents import Documents, read_documents
from jaxdistill.data.tokens import load_tokenizer
from jaxdistill.engine import preemption, sharding
from jaxdistill.engine.host import in_host_memory
from jaxdistill.engine.mesh import TENSOR, check_heads, check_rows, mesh_of
from jaxdistill.engine.telemetry import say
from jaxdistill.errors import ConfigError, DataError
from jaxdistill.inspect import checks_teacher, doctor
from jaxdistill.inspect.findings import Setup
from jaxdistill.models.frozen import keep_frozen
from jaxdistill.on_policy import tokens_of
from jaxdistill.teacher.texts import write_texts
from jaxdistill.workspace import Workspace

log = logging.getLogger("jaxdistill")
Keep = Callable[[int, list[int]], dict[str, Any]]


def write(config: Config, workdir: Path, output: Path, *, force: bool = False) -> dict[str, Any]:
    """Let the teacher continue prompts of the training documents, for sequence-level distillation.

    Texts are cut into rows of `data.max_length` tokens, whose beginnings it continues; in chats it
    answers the first question. Where the configuration fine-tunes the teacher, that is done before.

    Args:
      config: a checked configuration of a language model.
      workdir: of its run.
      output: the file of JSON lines, which `data.train` reads.
      force: replace what was made with other settings.

    Returns:
      See `write_texts`.

    Raises:
      ConfigError: another task, rows or heads that do not divide over the mesh, or `output` was
        made with other settings.
      DataError: no document has a prompt.
      Preempted: the process was asked to stop; the same call goes on.
    """
    if config.task != "language_model":
        raise ConfigError(f"generate: got task {config.task!r}, expected 'language_model'")
    wanted, length = config.generate, config.data.max_length
    if wanted.prompt_tokens >= length:
        raise ConfigError(
            f"generate.prompt_tokens: got {wanted.prompt_tokens}, expected fewer than "
            f"data.max_length, {length}, so that there is room to write"
        )
    mesh = mesh_of(config.parallel.sizes)
    check_rows("prompts", wanted.batch_size, mesh, setting="generate.batch_size")
    if config.finetune is not None:
        pipeline.run(config, workdir, until="finetune", force=force)
    with preemption.watch():
        workspace = Workspace(config, workdir, force)
        dataset = workspace.dataset
        check_heads("teacher", workspace.teacher.config, mesh.shape[TENSOR])
        setup = Setup(config, dataset, workspace.teacher, None)
        doctor.stop_if_fatal(list(checks_teacher.teacher_head(setup)))
        folder = dataset.tokenizer
        assert folder is not None  # a language model's data has one
        tokenizer = load_tokenizer(folder)
        documents = read_documents(config.data)["train"]
        if documents.chats:
            prompts, keep = questions(documents, tokenizer, wanted.prompt_tokens)
        else:
            cache = workdir / "data" if config.data.cache else None
            corpus = tokenize_documents(documents, folder=folder, cache_dir=cache)
            prompts, keep = beginnings(corpus, tokenizer, length, wanted.prompt_tokens)
        with in_host_memory():
            teacher = keep_frozen(workspace.teacher)
        parts = sharding.parameter_shardings(teacher.params, teacher.axes, mesh)
        result = write_texts(
            dataclasses.replace(teacher, params=sharding.place(teacher.params, parts)),
            prompts[: wanted.examples],
            output,
            line=keep,
            identity=workspace.identity() | {"prompt_tokens": wanted.prompt_tokens},
            max_new_tokens=wanted.max_new_tokens or length - wanted.prompt_tokens,
            temperature=wanted.temperature,
            top_k=wanted.top_k,
            top_p=wanted.top_p,
            eos_id=tokenizer.eos_token_id,
            vocabulary=tokens_of(teacher, dataset),
            seed=wanted.seed,
            batch_size=wanted.batch_size,
            force=force,
            mesh=mesh,
            progress=lambda done, total: say(f"generate  {done:,} of {total:,} texts"),
        )
    say(
        f"generate  {output}: {result['texts']:,} texts, {result['new_texts']:,} of them new with "
        f"{result['new_tokens']:,} tokens in {result['seconds']:.1f} s"
    )
    return result


def beginnings(
    corpus: Corpus, tokenizer: Any, length: int, prompt_tokens: int
) -> tuple[list[np.ndarray], Keep]:
    """Cut texts into rows of `length` tokens; return the beginning of each, and what to keep.

    The last token of a text ends it and begins nothing.
    """
    prompts = []
    for start, stop in zip(corpus.offsets[:-1].tolist(), corpus.offsets[1:].tolist(), strict=True):
        for at in range(start, stop - 1, length):
            prompts.append(corpus.ids[at : min(at + prompt_tokens, stop - 1)])

    def keep(index: int, tokens: list[int]) -> dict[str, Any]:
        whole = [*prompts[index].tolist(), *tokens]
        return {"text": tokenizer.decode(whole, skip_special_tokens=True)}

    return prompts, keep


def questions(
    documents: Documents, tokenizer: Any, prompt_tokens: int
) -> tuple[list[np.ndarray], Keep]:
    """Return what stands before the assistant's first turn of every chat, and what to keep.

    Raises:
      DataError: all of them are longer than `prompt_tokens`.
    """
    prompts, asked = [], []
    for chat in documents.items:
        roles = [message["role"] for message in chat]
        turn = roles.index("assistant") if "assistant" in roles else len(chat)
        if turn == 0:
            continue
        text = tokenizer.apply_chat_template(
            chat[:turn], tokenize=False, add_generation_prompt=True
        )
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if 0 < len(ids) <= prompt_tokens:
            prompts.append(np.asarray(ids, np.int32))
            asked.append(chat[:turn])
    left_out = len(documents) - len(prompts)
    if not prompts:
        raise DataError(
            f"generate.prompt_tokens: got {prompt_tokens}, but every one of {left_out} questions "
            f"in {documents.source} has more; expected room for some"
        )
    if left_out:
        log.warning(
            "generate: %d chats are left out, whose question has more than "
            "generate.prompt_tokens=%d tokens",
            left_out,
            prompt_tokens,
        )

    def keep(index: int, tokens: list[int]) -> dict[str, Any]:
        answer = tokenizer.decode(tokens, skip_special_tokens=True)
        return {"messages": [*asked[index], {"role": "assistant", "content": answer}]}

    return prompts, keep
