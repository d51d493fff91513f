"""Texts that a run's teacher writes to a file, which a student is then trained on."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxdistill.config.schema import Config
from jaxdistill.data.reading.chat import Chat, check_template, prompt_before
from jaxdistill.data.reading.documents import Documents, read_documents
from jaxdistill.data.reading.messages import ASSISTANT
from jaxdistill.data.text.corpus import Corpus, read_back, tokenize_documents
from jaxdistill.data.text.ends import ends_of, generation_settings
from jaxdistill.data.text.tokenize import load_tokenizer
from jaxdistill.distill import stages, workdir_lock
from jaxdistill.distill.workspace import Workspace
from jaxdistill.doctor import checks_teacher, doctor
from jaxdistill.doctor.findings import Examined
from jaxdistill.engine.telemetry import say
from jaxdistill.errors import ConfigError, DataError
from jaxdistill.generation.teacher_texts import write_texts
from jaxdistill.models.frozen import keep_frozen
from jaxdistill.parallel import sharding
from jaxdistill.parallel.host_memory import in_host_memory
from jaxdistill.parallel.mesh import TENSOR, check_heads, check_rows, mesh_of
from jaxdistill.runtime import preemption
from jaxdistill.setup.facts import tokens_among
from jaxdistill.types import Json

log = logging.getLogger("jaxdistill")
_NOT_APPLIED = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
Keep = Callable[[int, list[int]], Json]
_SHOWN = 3


def write(config: Config, workdir: Path, output: Path, *, force: bool = False) -> Json:
    """Let the teacher continue prompts of the training documents, for sequence-level distillation.

    Texts are cut into rows of `data.max_length` tokens, whose beginnings it continues; in chats it
    answers the first question. Where the configuration fine-tunes the teacher, that is done before.

    Args:
      config: a checked configuration of a language model.
      workdir: folder of the run.
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
    if not config.task_record.writes:
        raise ConfigError(f"generate: got task {config.task!r}, expected 'language_model'")
    wanted, length = config.generate, config.data.max_length
    if wanted.prompt_tokens >= length:
        raise ConfigError(
            f"generate.prompt_tokens: got {wanted.prompt_tokens}, expected fewer than "
            f"data.max_length, {length}, so that there is room to write"
        )
    longest = wanted.max_new_tokens or length - wanted.prompt_tokens
    mesh = mesh_of(config.parallel.sizes)
    check_rows("prompts", wanted.batch_size, mesh, setting="generate.batch_size")
    if config.finetune is not None:
        stages.run(config, workdir, until="finetune", force=force)
    with workdir_lock.held(workdir), preemption.watch():
        workspace = Workspace(config, workdir, force)
        dataset = workspace.dataset
        check_heads("teacher", workspace.teacher.config, mesh.shape[TENSOR])
        examined = Examined(config, dataset, workspace.teacher, None)
        doctor.stop_if_fatal(list(checks_teacher.teacher_head(examined)))
        folder = dataset.tokenizer
        assert folder is not None  # a language model's data has one
        tokenizer = load_tokenizer(folder)
        _tell_settings(config.teacher.model)
        documents = read_documents(config.data)["train"]
        if documents.chats:
            prompts, keep = questions(documents, tokenizer, wanted.prompt_tokens)
        elif documents.pairs:
            prompts, keep = given_prompts(documents, tokenizer, wanted.prompt_tokens)
        else:
            cache = workdir / "data" if config.data.cache else None
            corpus = tokenize_documents(documents, folder=folder, cache_dir=cache)
            prompts, keep = beginnings(corpus, tokenizer, length, wanted.prompt_tokens)
        with in_host_memory():
            teacher = keep_frozen(workspace.teacher)
        parts = sharding.parameter_shardings(teacher.params, teacher.axes, mesh)
        ends, changed = ends_of(config, dataset), []
        columns = teacher.sizes.vocabulary
        assert columns is not None  # of what writes texts

        def heard(index: int, tokens: list[int]) -> Json:
            line = keep(index, tokens)
            if not same_tokens(line, prompts[index], tokens, tokenizer):
                changed.append(index)
            return line

        result = write_texts(
            dataclasses.replace(teacher, params=sharding.place(teacher.params, parts)),
            prompts[: wanted.examples],
            output,
            line=heard,
            identity=workspace.identity() | {"prompt_tokens": wanted.prompt_tokens},
            max_new_tokens=longest,
            temperature=wanted.temperature,
            top_k=wanted.top_k,
            top_p=wanted.top_p,
            eos_id=list(ends) if len(ends) > 1 else next(iter(ends), None),
            vocabulary=tokens_among(columns, dataset.vocabulary),
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
    if documents.chats and result["unfinished"]:
        log.warning(
            "generate: %d of %d new answers were cut off at %d tokens, before the teacher ended "
            "them; the student would learn to end there: raise generate.max_new_tokens (and "
            "data.max_length)",
            result["unfinished"],
            result["new_texts"],
            longest,
        )
    if changed:
        log.warning(
            "generate: %d of %d new texts are cut into other tokens when they are read than the "
            "teacher wrote (the first are lines %s of %s): characters that were left half written, "
            "words that the tokenizer cuts otherwise, or what the chat template leaves out",
            len(changed),
            result["new_texts"],
            [index + 1 for index in changed[:_SHOWN]],
            output,
        )
    return result


def _tell_settings(teacher: Any) -> None:
    """Say what the teacher's folder advises and the configuration decides."""
    settings = generation_settings(Path(teacher)) if isinstance(teacher, str) else None
    advised = {name: settings[name] for name in _NOT_APPLIED if settings and name in settings}
    if advised:
        log.info(
            "generate: %s advises %s, which is not applied; set generate.temperature, "
            "generate.top_p or generate.top_k to follow it",
            teacher,
            advised,
        )


def same_tokens(line: Json, prompt: np.ndarray, tokens: list[int], tokenizer: Any) -> bool:
    """Return whether a line is read as the tokens of its prompt and those written behind it."""
    try:
        read = read_back(line, tokenizer)
    except DataError:
        return False
    whole = [*prompt.tolist(), *tokens]
    # What a tokenizer puts before a text is part of the first prompt of a text only.
    return any(row[start : start + len(whole)] == whole for row in read for start in range(3))


def beginnings(
    corpus: Corpus, tokenizer: Any, length: int, prompt_tokens: int
) -> tuple[list[np.ndarray], Keep]:
    """Cut texts into rows of `length` tokens; return the beginning of each, and what to keep.

    The last token of a text ends it and begins nothing. Texts are kept as they were written, with
    special tokens inside of them; those that begin and end a text are put there when it is read.
    """
    prompts = []
    outside = {tokenizer.bos_token_id, tokenizer.eos_token_id} - {None}
    for start, stop in zip(corpus.offsets[:-1].tolist(), corpus.offsets[1:].tolist(), strict=True):
        for at in range(start, stop - 1, length):
            prompts.append(corpus.ids[at : min(at + prompt_tokens, stop - 1)])

    def keep(index: int, tokens: list[int]) -> Json:
        whole = [*prompts[index].tolist(), *tokens]
        while whole and whole[0] in outside:
            whole = whole[1:]
        return {"text": _decoded(tokenizer, whole)}

    return prompts, keep


def questions(
    documents: Documents, tokenizer: Any, prompt_tokens: int
) -> tuple[list[np.ndarray], Keep]:
    """Return what stands before the first turn that is learned of every chat, and what to keep.

    Raises:
      DataError: the tokenizer has no chat template, or all of them are longer than
        `prompt_tokens`.
    """
    check_template(tokenizer, documents.source)
    prompts, asked = [], []
    for chat in documents.items:
        turn = chat.learned.index(True) if any(chat.learned) else len(chat.messages)
        if turn == 0 or chat.messages[turn - 1]["role"] == ASSISTANT:
            continue
        text = prompt_before(tokenizer, chat, turn)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if 0 < len(ids) <= prompt_tokens:
            prompts.append(np.asarray(ids, np.int32))
            asked.append(_asked(chat, turn))
    _check_left_out(documents, len(prompts), prompt_tokens)

    def keep(index: int, tokens: list[int]) -> Json:
        answer = {"role": ASSISTANT, "content": _decoded(tokenizer, tokens)}
        return {**asked[index], "messages": [*asked[index]["messages"], answer]}

    return prompts, keep


def given_prompts(
    documents: Documents, tokenizer: Any, prompt_tokens: int
) -> tuple[list[np.ndarray], Keep]:
    """Return the prompts of pairs as a model reads them, and what to keep.

    Raises:
      DataError: all of them are longer than `prompt_tokens`.
    """
    start = tokenizer.bos_token_id
    start = tokenizer.eos_token_id if start is None else start
    prompts, asked = [], []
    for prompt, _ in documents.items:
        ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        ids = ids if start is None else [start, *ids]
        if 0 < len(ids) <= prompt_tokens:
            prompts.append(np.asarray(ids, np.int32))
            asked.append(prompt)
    _check_left_out(documents, len(prompts), prompt_tokens)

    def keep(index: int, tokens: list[int]) -> Json:
        return {"prompt": asked[index], "completion": _decoded(tokenizer, tokens)}

    return prompts, keep


def _check_left_out(documents: Documents, kept: int, prompt_tokens: int) -> None:
    left_out = len(documents) - kept
    if not kept:
        raise DataError(
            f"generate.prompt_tokens: got {prompt_tokens}, but every one of {left_out} questions "
            f"in {documents.source} has more; expected room for some"
        )
    if left_out:
        log.warning(
            "generate: %d chats are left out, whose question is missing or has more than "
            "generate.prompt_tokens=%d tokens",
            left_out,
            prompt_tokens,
        )


def _asked(chat: Chat, turn: int) -> Json:
    """Return a chat before a turn as a row that is read as it; nothing of it is learned."""
    messages = [
        {**message, "weight": 0} if message["role"] == ASSISTANT else dict(message)
        for message in chat.messages[:turn]
    ]
    row: Json = {"messages": messages}
    if chat.tools:
        row["tools"] = list(chat.tools)
    if chat.variables:
        row["chat_template_kwargs"] = dict(chat.variables)
    return row


def _decoded(tokenizer: Any, tokens: list[int]) -> str:
    return tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False)
