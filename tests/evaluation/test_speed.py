"""Speed is measured by waiting for results of the usual batch; the table is whole."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console
from support.results import RESULT
from support.setups import text_dataset

from jaxdistill.config.load import check
from jaxdistill.data.batching.batch_source import eval_batches
from jaxdistill.evaluation import speed as evaluate
from jaxdistill.models.family import Model
from jaxdistill.models.outputs import Outputs
from jaxdistill.parallel import host_memory


def _config():
    return check(
        {
            "data": {"train": "x", "eval_batch_size": 32},
            "teacher": {"model": "x"},
            "student": {"model": "x"},
        }
    )


def _model(seconds: float, shapes: list) -> Model:
    """A model that takes its time on the host, so that only waiting for it can see how long."""

    def work(ids: np.ndarray, scale: np.ndarray) -> np.ndarray:
        shapes.append(ids.shape)
        time.sleep(seconds)
        return np.full((len(ids), 2), scale, np.float32)

    def apply(params, batch, *, rng=None, train=False, taps=(), model_state=None) -> Outputs:
        ids = jnp.asarray(batch["input_ids"])
        out = jax.ShapeDtypeStruct((len(ids), 2), jnp.float32)
        return Outputs(logits=jax.pure_callback(work, out, ids, params["scale"] + model_state["x"]))

    params, state = {"scale": np.ones((), np.float32)}, {"x": np.ones((), np.float32)}
    return Model(apply, params, model_state=state)


def test_measure_speed_is_that_of_the_slow_part():
    shapes: list[tuple[int, ...]] = []
    speed = evaluate.measure_speed(_model(0.02, shapes), text_dataset(), _config(), repeats=6)
    assert 20 <= speed.latency_ms < 500
    assert 32 / 0.5 < speed.examples_per_second <= 32 / 0.02
    assert {shape[0] for shape in shapes} == {1, 32}
    assert len({shape[1] for shape in shapes}) == 1
    assert len(shapes) == 2 * (2 + 6)  # warm-up and passes of both batch sizes


def test_what_one_device_cannot_hold_is_not_timed(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    model = Model(lambda *_: pytest.fail("run"), {"matrix": np.zeros((100, 90), np.float32)})
    for room, fits in ((44_000, True), (43_000, False)):
        monkeypatch.setattr(host_memory, "available_memory", lambda room=room: (room, "there"))
        assert host_memory.fits_one_device(100 * 90 * 4) is fits
    assert evaluate.measure_speed(model, text_dataset(), _config()) is None
    cells = evaluate.result_cells(
        "accuracy", RESULT["teacher"] | {"latency_ms": None, "examples_per_second": None}
    )
    assert cells[-2:] == ("—", "—")


def test_measure_speed_does_not_take_the_dispatch_for_the_work():
    def apply(params, batch, *, rng=None, train=False, taps=(), model_state=None) -> Outputs:
        matrix = params["matrix"] + batch["input_ids"].sum()
        for _ in range(8):
            matrix = jnp.tanh(matrix @ params["matrix"])
        return Outputs(logits=matrix)

    model = Model(apply, {"matrix": np.full((512, 512), 1e-3, np.float32)})
    forward = jax.jit(lambda ids: model.apply(model.params, {"input_ids": ids}).logits)
    ids, seconds = jnp.ones((1, 8), jnp.int32), []
    for _ in range(4):
        start = time.perf_counter()
        np.asarray(forward(ids))
        seconds.append(time.perf_counter() - start)
    speed = evaluate.measure_speed(model, text_dataset(), _config(), repeats=5)
    assert speed.latency_ms > 0.3 * 1000 * min(seconds)


def test_measure_speed_keeps_to_its_time():
    shapes: list[tuple[int, ...]] = []
    evaluate.measure_speed(
        _model(0.02, shapes), text_dataset(), _config(), repeats=10**6, seconds=0.05
    )
    assert len(shapes) <= 2 * (2 + 6)


def test_the_usual_batch_has_the_commonest_shape():
    config = _config()
    source = eval_batches(text_dataset().validation, batch_size=32, config=config.data)
    batch, rows = evaluate._usual_batch(source)
    shapes = [source[step]["input_ids"].shape for step in range(len(source))]
    assert len(set(shapes)) > 1
    assert shapes.count(batch["input_ids"].shape) == max(shapes.count(shape) for shape in shapes)
    assert rows == 32
    assert batch["weight"].all()


def test_result_table_shows_every_figure_in_80_columns():
    console = Console(width=80)
    with console.capture() as captured:
        console.print(evaluate.result_table(RESULT))
    text = captured.get()
    assert "1,821 examples of the test split" in text
    lines = {line.strip().split("  ")[0]: line for line in text.splitlines() if line.strip()}
    teacher, alone = lines["teacher"], lines["student alone"]
    for part in ("91.50", "100.00", "22.7 M", "90.9 MB", "12 ms", "1,234"):
        assert part in teacher
    for part in ("81.00 ± 1.41", "90.00 ± 0.00", "6.1 k", "24.4 kB", "0.012 ms", "123,457"):
        assert part in alone
    distilled = next(line for line in text.splitlines() if "student distilled" in line)
    for part in ("90.00 ± 0.00", "96.00 ± 1.41", " 690 ", "2.8 kB", "1.5 ms", " 10"):
        assert part in distilled


def test_the_table_says_which_label_f1_is_of():
    console = Console(width=100)
    of = {"metric": "f1", "metric_of": "that of the label '[fraud]'"}
    with console.capture() as captured:
        console.print(evaluate.result_table({**RESULT, **of}))
    assert "the test split; f1 is that of the label '[fraud]'" in captured.get()
    assert "; " not in evaluate.measured(RESULT)


@pytest.mark.parametrize(
    ("metric", "cell", "agreement"),
    [("spearman", "0.8100 ± 0.0141", "0.9000"), ("matthews", "0.8100 ± 0.0141", "90.00")],
)
def test_correlations_are_not_in_percent(metric, cell, agreement):
    cells = evaluate.result_cells(metric, RESULT["student_alone"])
    assert cells[0] == cell
    assert cells[1].startswith(agreement)
    assert evaluate.result_header(metric)[1] == metric
