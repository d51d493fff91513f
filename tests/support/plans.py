"""A config of two small decoders to plan for."""

from jaxdistill.config.load import check

TEACHER = {
    "family": "qwen3", "vocab_size": 256, "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "max_position_embeddings": 64,
}  # fmt: skip
STUDENT = TEACHER | {
    "hidden_size": 32, "intermediate_size": 96, "num_hidden_layers": 2, "tie_word_embeddings": True,
}  # fmt: skip


def config(**sections):
    """Return it with some sections changed."""
    values = {
        "name": "tiny",
        "task": "language_model",
        "data": {"train": "nowhere.jsonl", "max_length": 32},
        "teacher": {"model": TEACHER, "dtype": "bfloat16"},
        "student": {"model": STUDENT},
        "finetune": None,
        "train": {"batch_size": 16, "steps": 10, "remat": True, "unroll": False},
        "parallel": {"data": 2, "fsdp": 4},
    }
    return check({k: values.get(k, {}) | v if isinstance(v, dict) else v
                  for k, v in (values | sections).items()})  # fmt: skip
