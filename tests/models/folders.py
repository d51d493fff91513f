"""Changes to a model folder, and parameters compared."""

import json

import numpy as np
from safetensors.numpy import load_file, save_file

from jaxdistill.models.hub.rules import flatten


def change_tensors(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def change_config(folder, **fields):
    path = folder / "config.json"
    config = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def equal(one, other):
    ours, theirs = flatten(one), flatten(other)
    return ours.keys() == theirs.keys() and all(
        np.array_equal(ours[path], theirs[path]) for path in ours
    )
