"""How long a distillation step takes to compile, and how large it is, with 4 and with 32 layers.

Layers are stacked and scanned, so neither should grow with them. Counted are the seconds to lower
and to compile the step of teacher and student of that depth (the median over `--repeats`, nothing
cached), the instructions of the optimized program, and the bytes of its machine code.

    python benchmarks/depth.py --json depth.json
"""

from __future__ import annotations

import time
from typing import Any

import common
import jax
import jax.numpy as jnp
import optax

from jaxdistill import losses
from jaxdistill.engine.objective import Objective, logits_term, task_term
from jaxdistill.engine.state import TrainState
from jaxdistill.engine.step import make_train_step
from jaxdistill.models.registry import build_model

SIZES = {
    "hidden_size": 128,
    "intermediate_size": 512,
    "vocab_size": 1024,
    "num_attention_heads": 4,
}
MODELS = {
    "encoder": {"family": "bert", **SIZES},
    "decoder": {"family": "llama", **SIZES},
}


def lowered_step(
    spec: dict[str, Any], layers: int, *, rows: int = 8, length: int = 64, **options: Any
) -> tuple[Any, float]:
    """Lower the step of a teacher and a student of that depth; also the seconds it took."""
    classifies = spec["family"] == "bert"
    head: dict[str, Any] = {"num_labels": 2} if classifies else {}
    student = teacher = build_model({**spec, "num_hidden_layers": layers}, **head, **options)
    ids = jax.ShapeDtypeStruct((rows, length), jnp.int32)
    batch = {
        "input_ids": ids,
        "attention_mask": ids,
        "labels": jax.ShapeDtypeStruct((rows,), jnp.int32) if classifies else ids,
        "weight": jax.ShapeDtypeStruct((rows,), jnp.float32),
    }
    terms = {
        "task": task_term(losses.cross_entropy),
        "match": logits_term(losses.forward_kl, temperature=2.0),
    }
    optimizer = optax.adamw(1e-3)
    step = make_train_step(student.apply, optimizer, Objective(terms), teacher=teacher.apply)
    state = jax.eval_shape(lambda: TrainState.create(student.params, optimizer))
    start = time.perf_counter()
    lowered = jax.jit(step).lower(state, teacher.params, batch)
    return lowered, time.perf_counter() - start


def measure(name: str, layers: int, unroll: int, repeats: int) -> dict[str, Any]:
    """Compile the step anew several times; return medians and sizes."""
    lowering, compiling, compiled = [], [], None
    for _ in range(repeats):
        jax.clear_caches()
        lowered, seconds = lowered_step(MODELS[name], layers, unroll=unroll)
        lowering.append(seconds)
        start = time.perf_counter()
        compiled = lowered.compile()
        compiling.append(time.perf_counter() - start)
    assert compiled is not None
    memory = compiled.memory_analysis()
    return {
        "model": name,
        "layers": layers,
        "unroll": unroll,
        "lower_seconds": common.median(lowering),
        "compile_seconds": common.median(compiling),
        "instructions": compiled.as_text().count(" = "),
        "code_bytes": memory.generated_code_size_in_bytes if memory else None,
    }


def main() -> None:
    """Measure both models at both depths and print the ratios."""
    parser = common.parser(__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--depths", type=int, nargs=2, default=[4, 32])
    parser.add_argument("--unrolled", action="store_true", help="without the scan, to compare")
    arguments = common.parse(parser, smoke={"repeats": 1, "depths": [1, 2]})
    jax.config.update("jax_enable_compilation_cache", False)
    rows, ratios = [], {}
    for name in MODELS:
        for layers in arguments.depths:
            unroll = layers if arguments.unrolled else 1
            rows.append(measure(name, layers, unroll, arguments.repeats))
            print(rows[-1], flush=True)
        few, many = rows[-2:]
        counted = ("lower_seconds", "compile_seconds", "instructions", "code_bytes")
        ratios[name] = {key: many[key] / few[key] for key in counted if few[key] and many[key]}
        print(name, {key: round(value, 3) for key, value in ratios[name].items()}, flush=True)
    common.write(arguments.json, rows, ratios=ratios)


if __name__ == "__main__":
    main()
