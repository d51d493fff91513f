"""What a step holds, needs and saves when all of a student but its head is frozen.

The student has BERT-base's shape (12 layers of width 768, vocabulary 30,522). Compiled for shapes
alone, with all of it trained and with `train.freeze` on everything below the head: bytes of trained
parameters, of frozen ones, of the optimizer's state, and of temporaries, among which are the
gradients. Then the state of the frozen run is made of random weights and saved, and the folder of
the checkpoint is weighed.

    python benchmarks/frozen.py --json frozen.json
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import common
import jax
import optax

from jaxdistill.config.load import check
from jaxdistill.config.schema import CheckpointConfig, Config
from jaxdistill.engine.checkpoint import Checkpointer
from jaxdistill.engine.frozen import split_parameters
from jaxdistill.engine.state import TrainState
from jaxdistill.models.registry import build_model
from jaxdistill.parallel.mesh import make_mesh
from jaxdistill.planning.programs import make_program

BODY = "^student/(?!head/)"
BASE = {
    "family": "bert",
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "vocab_size": 30522,
}


def config_of(sizes: dict[str, Any], freeze: tuple[str, ...], rows: int, length: int) -> Config:
    """Return the config of a classifier that is trained without a teacher."""
    return check(
        {
            "data": {"train": "unread.tsv", "labels": ["no", "yes"], "max_length": length},
            "teacher": {"model": sizes},
            "student": {"model": sizes},
            "train": {"batch_size": rows, "freeze": list(freeze)},
            "parallel": {"data": 1},
        }
    )


def measure(
    sizes: dict[str, Any], freeze: tuple[str, ...], *, rows: int, length: int, apart: bool
) -> dict[str, Any]:
    """Compile a step and return its bytes by what they are for."""
    mesh = make_mesh(1, devices=jax.devices()[:1])
    program = make_program(config_of(sizes, freeze, rows, length), mesh, "baseline", apart=apart)
    memory = program.lower().compile().memory_analysis()
    state, frozen, _ = program.arguments
    return {
        "freeze": list(freeze),
        "layers": "apart" if apart else "scanned",
        "trained_bytes": bytes_of(state.params),
        "frozen_bytes": bytes_of(frozen.student),
        "optimizer_bytes": bytes_of(state.opt_state),
        "temporary_bytes": memory.temp_size_in_bytes,
        "run_flops": program.run_flops,
    }


def bytes_of(tree: Any) -> int:
    """Return the bytes of arrays or shapes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def saved_bytes(sizes: dict[str, Any], freeze: tuple[str, ...]) -> dict[str, int]:
    """Save the state of a student of random weights; return its bytes and the folder's."""
    model = build_model(sizes, num_labels=2)
    params = {"student": model.params, "projections": {}}
    trained, _ = split_parameters(params, freeze)
    state = TrainState.create(trained["student"], optax.adamw(1e-3))
    with tempfile.TemporaryDirectory() as folder:
        saver = Checkpointer(Path(folder), CheckpointConfig(), higher_is_better=True)
        saver.save(1, state, {})
        saver.close()
        weighed = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    return {"model_bytes": bytes_of(model.params), "checkpoint_bytes": weighed}


def main() -> None:
    """Measure with everything trained and with the head alone, and print what is saved."""
    parser = common.parser(__doc__)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--layers", type=int, default=BASE["num_hidden_layers"])
    parser.add_argument("--width", type=int, default=BASE["hidden_size"])
    small = {"rows": 2, "length": 8, "layers": 2, "width": 48}
    arguments = common.parse(parser, smoke=small)
    wanted = {"hidden_size": arguments.width, "num_hidden_layers": arguments.layers}
    sizes = BASE | wanted | {"intermediate_size": 4 * arguments.width}
    rows = []
    for apart in (True, False):
        for freeze in ((), (BODY,)):
            shape = {"rows": arguments.rows, "length": arguments.length}
            rows.append(measure(sizes, freeze, apart=apart, **shape))
            print(rows[-1], flush=True)
    saved = saved_bytes(sizes, (BODY,))
    share = saved["checkpoint_bytes"] / saved["model_bytes"]
    print({**saved, "share": share})
    common.write(arguments.json, rows, **saved)


if __name__ == "__main__":
    main()
