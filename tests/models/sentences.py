"""A sentence-transformers folder computed with transformers on PyTorch only."""

import json

import pytest
from models import parity
from safetensors.numpy import load_file


def modules_of(folder):
    """The modules of a folder as sentence-transformers lists them, with their configs."""
    for module in json.loads((folder / "modules.json").read_text()):
        place = folder / module["path"]
        yield (
            module["type"].rpartition(".")[2],
            place,
            json.loads((place / "config.json").read_text()),
        )


def encoded(folder, batch):
    """What `SentenceTransformer(folder).encode` computes, written down with transformers only."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    vector = hidden = None
    mask = torch.tensor(batch["attention_mask"])[:, :, None]
    for kind, place, config in modules_of(folder):
        if kind == "Transformer":
            encoder = transformers.AutoModel.from_pretrained(place).eval()
            with torch.no_grad():
                hidden = parity.run_torch(encoder, batch).last_hidden_state
        elif kind == "Pooling":
            assert config["word_embedding_dimension"] == hidden.shape[-1]
            modes = [name for name, value in config.items() if value is True]
            mean = (hidden * mask).sum(1) / mask.sum(1)
            vector = {"mean_tokens": mean, "cls_token": hidden[:, 0]}[modes[0][13:]]
            assert len(modes) == 1
        else:
            layer = load_file(place / "model.safetensors")
            assert layer["linear.weight"].shape == (config["out_features"], config["in_features"])
            weights, bias = (torch.tensor(layer[f"linear.{part}"]) for part in ("weight", "bias"))
            name = config["activation_function"]
            assert name.startswith("torch.nn.modules.")
            vector = getattr(torch.nn, name.rpartition(".")[2])()(vector @ weights.T + bias)
    return vector.numpy()
