"""Chat templates as they are met, each with what makes it hard, and a tokenizer for them."""

import functools
from typing import Any

TURN = "<|im_start|>{{ m['role'] }}\n"
END = "<|im_end|>\n"
ASK = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
LOOP = "{% for m in messages %}"
CALLS = (
    "{% if m.tool_calls %}{% for c in m.tool_calls %}<call>"
    "{{ c.function.name }}{{ c.function.arguments | tojson }}</call>{% endfor %}{% endif %}"
)
TEMPLATES = {
    "chatml": "{{ bos_token }}" + LOOP + TURN + "{{ m['content'] }}" + END + "{% endfor %}" + ASK,
    # Writes tools and their calls; a content may be absent.
    "tools": "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    + LOOP
    + TURN
    + "{% if m['content'] %}{{ m['content'] }}{% endif %}"
    + CALLS
    + END
    + "{% endfor %}"
    + ASK,
    # As DeepSeek's: joins arguments as they are, which fails on anything but text.
    "joined": LOOP
    + TURN
    + "{{ m['content'] + '' }}{% for c in m.tool_calls or [] %}"
    + "{{ '<call>' + c.function.name + c.function.arguments }}{% endfor %}"
    + END
    + "{% endfor %}"
    + ASK,
    # As Qwen3's: thoughts before the last answer only, an empty one where it has none.
    "think": LOOP
    + TURN
    + "{% if m['role'] == 'assistant' %}{% set told = m['content'].split('</think>') %}"
    + "{% if loop.last %}<think>\n{{ m.reasoning_content or "
    + "told[0].split('<think>')[1].strip('\n') "
    + "if '</think>' in m['content'] or m.reasoning_content else '' }}\n</think>\n\n{% endif %}"
    + "{{ told[-1].lstrip('\n') }}{% else %}{{ m['content'] }}{% endif %}"
    + END
    + "{% endfor %}"
    + "{% if add_generation_prompt %}<|im_start|>assistant\n"
    + "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n"
    + "{% endif %}{% endif %}",
    # As Qwen's for reasoners: opens the thoughts for the model, which chats may not have.
    "opened": LOOP + TURN + "{{ m['content'] }}" + END + "{% endfor %}"
    + ASK.replace("{% endif %}", "<think>\n{% endif %}"),
    # As Gemma's: no system, turns in strict alternation.
    "strict": "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not "
    "supported') }}{% endif %}"
    + LOOP
    + "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation "
    "roles must alternate') }}{% endif %}" + TURN + "{{ m['content'] | trim }}" + END
    + "{% endfor %}" + ASK,
    # As Llama 2's: writes nothing of roles that it does not know, and nothing to ask.
    "inst": "{{ bos_token }}" + LOOP + "{% if m['role'] == 'user' %}[INST] {{ m['content'] }} "
    "[/INST]{% elif m['role'] == 'assistant' %} {{ m['content'] }}<|im_end|>{% endif %}"
    "{% endfor %}",
    # As Phi's: the end of a text behind the last turn only.
    "last": LOOP + "<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% else %}{{ eos_token }}{% endif %}",
    "marked": LOOP + TURN + "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}"
    "<|im_end|>{% endgeneration %}\n{% else %}{{ m['content'] }}" + END + "{% endif %}{% endfor %}"
    + ASK,
}  # fmt: skip
SPECIAL = ["<pad>", "<bos>", "<|im_start|>", "<|im_end|>", "<eos>"]


@functools.lru_cache
def _bytes() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=256 + len(SPECIAL),
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["x"], trainer)
    return tokenizer


def chat_tokenizer(template: str | None, **settings: Any) -> Any:
    """A tokenizer of bytes whose turns end with `<|im_end|>`, with a template or none."""
    from transformers import PreTrainedTokenizerFast

    usual = {"bos_token": "<bos>", "eos_token": "<|im_end|>", "pad_token": "<pad>"}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_bytes(),
        extra_special_tokens=["<|im_start|>", "<eos>"],
        **{**usual, **settings},
    )
    tokenizer.chat_template = TEMPLATES.get(template, template) if template else None
    return tokenizer


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


WEATHER = {"name": "get_weather", "arguments": {"city": "Oslo"}}
CALL = {"type": "function", "function": WEATHER}
TOOL = {
    "type": "function",
    "function": {"name": "get_weather", "description": "Weather of a city", "parameters": {}},
}
