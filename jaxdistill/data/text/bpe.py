"""A byte-level BPE trained on a corpus on first use, as a Hugging Face folder."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from jaxdistill.config.schema import TokenizerConfig
from jaxdistill.data.text.tokenize import framed
from jaxdistill.errors import DataError
from jaxdistill.files.hashing import SHORT, hash_bytes

_VERSION = 1
_BYTES = 256

_log = logging.getLogger("jaxdistill")


@dataclasses.dataclass(frozen=True)
class Specials:
    """The special tokens of a tokenizer and what it puts around texts.

    Attributes:
      tokens: in the order of their ids, from 0.
      roles: the names that transformers has for them.
      single, pair: what a text and a pair of texts become, in the words of `tokenizers`; None:
        nothing is put around them.
    """

    tokens: tuple[str, ...]
    roles: dict[str, str]
    single: str | None = None
    pair: str | None = None


END = "<|endoftext|>"
LANGUAGE = Specials((END,), {"bos_token": END, "eos_token": END, "pad_token": END})
# As BERT's (Devlin et al. 2019), the padding first, whose id is 0 there, too.
ENCODER = Specials(
    ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    {f"{name.lower()}_token": f"[{name}]" for name in ("PAD", "UNK", "CLS", "SEP", "MASK")},
    single="[CLS] $A [SEP]",
    pair="[CLS] $A [SEP] $B:1 [SEP]:1",
)


def choose_tokenizer(
    wanted: str | TokenizerConfig | None,
    own: Path | None,
    *,
    texts: Callable[[], Sequence[str]],
    source: str,
    folder: Path | None,
    specials: Specials,
) -> Path:
    """Return the folder of the tokenizer that reads the texts.

    Args:
      wanted: `data.tokenizer`.
      own: the folder of the model, where it has one.
      texts: gives the training texts.
      source: names them in messages.
      folder: where tokenizers are kept; None: none can be trained.
      specials: special tokens of a tokenizer that is trained.

    Raises:
      DataError: none is given, or it cannot be trained.
    """
    if isinstance(wanted, TokenizerConfig):
        if folder is None:
            raise DataError(
                "data.tokenizer: got one to train, expected a folder to keep it in (cache_dir)"
            )
        return trained_tokenizer(
            texts(), vocabulary=wanted.vocabulary, folder=folder, specials=specials
        )
    if wanted is not None:
        return Path(wanted)
    if own is None:
        raise DataError(
            f"{source}: got text and no tokenizer to read it; set teacher.model or "
            "data.tokenizer to a Hugging Face folder, or data.tokenizer={vocabulary: 4096} to "
            "train one"
        )
    return own


def trained_tokenizer(
    texts: Sequence[str], *, vocabulary: int, folder: Path, specials: Specials = LANGUAGE
) -> Path:
    """Return the folder of a tokenizer trained on texts; it is trained where it is not there yet.

    Sennrich et al. 2016 (arXiv 1508.07909), on bytes as in GPT-2, so that no text is unknown to it.

    Args:
      texts: the training texts.
      vocabulary: number of tokens.
      folder: where tokenizers are kept, each under a name that says what it was made from.
      specials: by default one token begins, ends and pads documents.

    Raises:
      DataError: the texts do not have that many tokens.
    """
    from importlib.metadata import version

    made_by: list[object] = [_VERSION, vocabulary, version("tokenizers")]
    if specials != LANGUAGE:
        made_by.append(dataclasses.astuple(specials))
    digest = hash_bytes(json.dumps(made_by).encode(), framed(texts))
    target = folder / f"tokenizer-{digest[:SHORT]}"
    if (target / "tokenizer_config.json").is_file():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    # Written aside and renamed: a reader sees a whole folder or none.
    aside = Path(tempfile.mkdtemp(dir=folder, prefix=".tokenizer-"))
    try:
        _train(texts, vocabulary, specials, aside)
        aside.chmod(0o755)
        shutil.rmtree(target, ignore_errors=True)
        aside.replace(target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    _log.info("%s: a tokenizer of %d tokens, trained on the training texts", target, vocabulary)
    return target


def _train(texts: Sequence[str], vocabulary: int, specials: Specials, folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    least = _BYTES + len(specials.tokens)
    if vocabulary < least:
        raise DataError(
            f"data.tokenizer.vocabulary: got {vocabulary}, expected at least {least}: {_BYTES} "
            f"bytes and {', '.join(specials.tokens)}"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(specials.tokens),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    got = tokenizer.get_vocab_size()
    if got != vocabulary:
        raise DataError(
            f"data.tokenizer.vocabulary: got {vocabulary}, expected at most {got}: the training "
            "texts have no more pairs to merge"
        )
    if specials.single is not None:
        ids = {token: index for index, token in enumerate(specials.tokens)}
        tokenizer.post_processor = processors.TemplateProcessing(
            single=specials.single,
            pair=specials.pair,
            special_tokens=[(token, ids[token]) for token in ids if token in specials.single],
        )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **specials.roles)
    fast.save_pretrained(str(folder))
