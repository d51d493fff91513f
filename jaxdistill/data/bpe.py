"""A byte-level BPE trained on a corpus on first use, as a Hugging Face folder."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from jaxdistill.data.tokens import framed
from jaxdistill.errors import DataError

END = "<|endoftext|>"
_VERSION = 1

_log = logging.getLogger("jaxdistill")


def trained_tokenizer(texts: Sequence[str], *, vocabulary: int, folder: Path) -> Path:
    """Return the folder of a tokenizer trained on texts; it is trained where it is not there yet.

    Sennrich et al. 2016 (arXiv 1508.07909), on bytes as in GPT-2. One special token begins, ends
    and pads documents.

    Args:
      texts: the training documents.
      vocabulary: number of tokens.
      folder: where tokenizers are kept, each under a name that says what it was made from.

    Raises:
      DataError: the texts do not have that many tokens.
    """
    from importlib.metadata import version

    digest = hashlib.sha256(json.dumps([_VERSION, vocabulary, version("tokenizers")]).encode())
    digest.update(framed(texts))
    target = folder / f"tokenizer-{digest.hexdigest()[:16]}"
    if (target / "tokenizer_config.json").is_file():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    # Written aside and renamed: a reader sees a whole folder or none.
    aside = Path(tempfile.mkdtemp(dir=folder, prefix=".tokenizer-"))
    try:
        _train(texts, vocabulary, aside)
        aside.chmod(0o755)
        shutil.rmtree(target, ignore_errors=True)
        aside.replace(target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    _log.info("%s: a tokenizer of %d tokens, trained on the documents", target, vocabulary)
    return target


def _train(texts: Sequence[str], vocabulary: int, folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    got = tokenizer.get_vocab_size()
    if got != vocabulary:
        raise DataError(
            f"data.tokenizer.vocabulary: got {vocabulary}, expected at most {got}: the training "
            "documents have no more pairs to merge"
        )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END, eos_token=END, pad_token=END
    )
    fast.save_pretrained(str(folder))
