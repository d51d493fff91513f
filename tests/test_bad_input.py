"""Every mistake a user can make ends in one line that names it, exit code 2, and no traceback."""

import json
from pathlib import Path

import numpy as np
import pytest
from support import runs
from support.setups import LABELS, WORDS, save_tokenizer

from jaxdistill.models.registry import build_model, save_model


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    """A folder with a config, data and teacher that are all right."""
    folder = tmp_path_factory.mktemp("good")
    runs.write_config(folder)
    return folder


def refused(capsys, tmp_path, config, *overrides) -> str:
    """Run a config that must be refused and return its one line."""
    workdir = str(tmp_path / "work")
    return runs.refused(capsys, ["run", str(config), "--workdir", workdir, *overrides])


def rewrite(folder: Path, name: str, **changes) -> None:
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.mostly_slow
@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["train.learning_rat=1"], "train.learning_rat: unknown key. Did you mean 'learning_rate'"),
        (["trian.epochs=1"], "trian: unknown key. Did you mean 'train'"),
        (["train.learning_rate=fast"], "train.learning_rate"),
        (["train.batch_size=0"], "train.batch_size"),
        (["data.train=nowhere.tsv"], "nowhere.tsv"),
        (["teacher.model=nowhere"], "nowhere"),
        (["parallel.data=9"], "9 devices, but 8 are present"),
        (["train.batch_size=12", "parallel.data=8"], "batch_size is 12"),
        (["train.batch_size=10", "train.accumulate=4"], "expected a divisor of batch_size"),
        (["student.layers=[7]"], "7"),
        (["teacher.model={family: gpt2}"], "teacher.model: got a mapping of the family 'gpt2'"),
        (["student.model={family: vit}", "student.layers=null"], "which reads image"),
        (["teacher.fresh_head=true"], "teacher.fresh_head: got true, but finetune is null"),
        (["objective.hidden={loss: hidden_mse, layers: {0: 9}}"], "teacher layer 9"),
    ],
)
def test_settings(good, tmp_path, capsys, overrides, expected):
    # Everything is checked before the first step: the fine-tune is off, so no stage hides a fault.
    line = refused(capsys, tmp_path, good / "toy.yaml", "finetune=null", *overrides)
    assert expected in line


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "empty"),
        ("sentence\tlabel\n", "train.tsv"),
        ("sentence\tlabel\na good film\t1\na bad film\t7\n", "7"),
        ("sentence\tlabel\na good film\t1\na bad film\t-1\n", "-1"),
        ("sentence\tlabel\na good film\tpositive\na bad film\tnegativ\n", "negativ"),
        ("wort\tklasse\na good film\t1\n", "wort"),
    ],
)
def test_data_files(good, tmp_path, capsys, content, expected):
    path = tmp_path / "train.tsv"
    path.write_text(content)
    assert expected in refused(capsys, tmp_path, good / "toy.yaml", f"data.train={path}")


def test_a_head_of_another_size(good, tmp_path, capsys):
    teacher = tmp_path / "teacher"
    save_model(teacher, build_model(runs.SIZES, labels=("LABEL_0", "LABEL_1", "LABEL_2")))
    save_tokenizer(teacher, WORDS)
    overrides = [f"teacher.model={teacher}", f"data.labels=[{', '.join(LABELS)}]"]
    line = refused(capsys, tmp_path, good / "toy.yaml", *overrides)
    assert "has a head of 3 outputs, expected one for the data's 2 labels" in line
    assert "set teacher.fresh_head=true to draw a new one" in line


def test_label_map_of_other_names(good, tmp_path, capsys):
    line = refused(capsys, tmp_path, good / "toy.yaml", f"data.labels=[{LABELS[1]}, maybe]")
    assert "data.labels" in line
    assert str(list(LABELS)) in line


def test_student_with_other_labels_than_the_teacher(good, tmp_path, capsys):
    student = Path(runs.write_teacher(tmp_path / "student", seed=1))
    rewrite(student, "config.json", id2label={"0": LABELS[1], "1": "maybe"})
    overrides = ["student.layers=null", f"student.model={student}"]
    line = refused(capsys, tmp_path, good / "toy.yaml", *overrides)
    assert ", ".join(LABELS) in line
    assert "maybe" in line


def test_truncated_safetensors(good, tmp_path, capsys):
    teacher = Path(runs.write_teacher(tmp_path / "teacher"))
    weights = teacher / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    line = refused(capsys, tmp_path, good / "toy.yaml", f"teacher.model={teacher}")
    assert "model.safetensors" in line


def test_pickle_checkpoint_is_never_opened(good, tmp_path, capsys):
    teacher = Path(runs.write_teacher(tmp_path / "teacher"))
    (teacher / "model.safetensors").unlink()
    np.save(teacher / "weights.npy", np.zeros(2))
    (teacher / "weights.npy").rename(teacher / "pytorch_model.bin")
    line = refused(capsys, tmp_path, good / "toy.yaml", f"teacher.model={teacher}")
    assert "pytorch_model.bin" in line
    assert "safetensors" in line


def test_unknown_family_lists_the_known_ones(good, tmp_path, capsys):
    teacher = Path(runs.write_teacher(tmp_path / "teacher"))
    rewrite(teacher, "config.json", model_type="longformer")
    line = refused(capsys, tmp_path, good / "toy.yaml", f"teacher.model={teacher}")
    for word in ("longformer", "bert", "mobilebert", "vit", "resnet"):
        assert word in line


def test_missing_config_and_recipe(tmp_path, capsys):
    line = refused(capsys, tmp_path, "digit")
    assert "Did you mean 'digits'" in line
