"""Tokens that end a text, against what transformers reads from the same folder."""

import json

import pytest
from support.chats import chat_tokenizer

from jaxdistill.data.text.ends import end_ids, generation_config

EOS, TURN = 4, 3  # <eos> and <|im_end|>


def folder_of(path, generation=None, config=None):
    path.mkdir(exist_ok=True)
    for name, content in (("generation_config.json", generation), ("config.json", config)):
        if content is not None:
            (path / name).write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("generation", "config", "expected"),
    [
        ({"eos_token_id": [EOS, TURN]}, None, (EOS, TURN)),
        ({"eos_token_id": TURN}, {"eos_token_id": 9}, (EOS, TURN)),  # the config is not asked
        ({"temperature": 0.6}, {"eos_token_id": 9}, (EOS,)),
        (None, {"eos_token_id": [TURN, EOS]}, (EOS, TURN)),
        (None, {"eos_token_id": TURN}, (EOS, TURN)),
        (None, {}, (EOS,)),
        ({"eos_token_id": [TURN, 9999, None]}, None, (EOS, TURN)),
        (None, None, (EOS,)),
    ],
)
def test_ends_are_the_tokenizers_and_those_of_the_folder(tmp_path, generation, config, expected):
    from transformers import GenerationConfig, PretrainedConfig

    tokenizer = chat_tokenizer(None, eos_token="<eos>")
    folder = folder_of(tmp_path / "model", generation, config)
    found = end_ids(tokenizer, [folder, None, tmp_path / "nowhere"])
    assert found == expected
    if generation is not None or config is not None:
        theirs = (
            GenerationConfig.from_pretrained(folder)
            if generation is not None
            else GenerationConfig.from_model_config(PretrainedConfig(**(config or {})))
        )
        ids = theirs.eos_token_id
        listed = ids if isinstance(ids, list) else [ids]
        assert {i for i in listed if i is not None and i < len(tokenizer)} | {EOS} == set(found)


def test_settings_of_the_origin_are_kept_under_the_tokenizers_ids(tmp_path):
    from transformers import GenerationConfig

    tokenizer = chat_tokenizer(None, eos_token="<eos>")
    given = {"temperature": 0.6, "top_p": 0.9, "do_sample": True, "pad_token_id": 7777}
    first = folder_of(tmp_path / "first", config={"eos_token_id": 2})
    second = folder_of(tmp_path / "second", {**given, "eos_token_id": TURN, "bos_token_id": 8888})
    made = generation_config(tokenizer, (EOS, TURN), [first, second])
    assert made == {
        **given,
        "eos_token_id": [EOS, TURN],
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
    }
    theirs = GenerationConfig.from_pretrained(folder_of(tmp_path / "made", made))
    assert theirs.eos_token_id == [EOS, TURN]
    assert theirs.temperature == 0.6
    bare = chat_tokenizer(None, bos_token=None, pad_token=None)
    assert generation_config(bare, (TURN,), [second]) == {
        "temperature": 0.6,
        "top_p": 0.9,
        "do_sample": True,
        "eos_token_id": TURN,
    }
