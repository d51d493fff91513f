"""Every check finds its planted fault, says what to do, and is silent on a healthy set-up."""

import dataclasses
import io
import json

import jax
import numpy as np
import pytest
from support.setups import LABELS, WORDS, encoder, save_tokenizer, text_dataset

from jaxdistill.errors import ConfigError
from jaxdistill.inspect import checks_labels, checks_machine, checks_teacher, checks_text, doctor
from jaxdistill.inspect.findings import Finding


def _one(findings, level: str) -> str:
    """Return the message of the only finding, which has this level."""
    (finding,) = list(findings)
    assert finding.level == level, finding
    return finding.message


def _split(dataset, part, **fields):
    return dataclasses.replace(
        dataset, **{part: dataclasses.replace(getattr(dataset, part), **fields)}
    )


def test_a_healthy_setup_is_ok(healthy):
    setup = healthy()
    findings = doctor.examine(
        setup.config,
        setup.dataset,
        setup.teacher,
        setup.student,
        teacher_logits=setup.teacher_logits,
        teacher_labels=setup.teacher_labels,
    )
    assert {finding.level for finding in findings} == {"ok"}, findings
    assert len(findings) >= 9
    doctor.stop_if_fatal(findings)


def test_a_student_that_does_not_exist_yet_is_left_out(healthy):
    setup = healthy(student=None, teacher_logits=None, teacher_labels=None)
    names = {finding.name for check in doctor.CHECKS for finding in check(setup)}
    assert not names & {"size", "memory", "teacher skill"}
    assert {"vocabulary", "label range", "devices"} <= names


def test_fatal_findings_stop():
    with pytest.raises(ConfigError, match="length: too long; vocabulary: too small"):
        doctor.stop_if_fatal(
            [
                Finding("fatal", "length", "too long"),
                Finding("warning", "size", "hm"),
                Finding("fatal", "vocabulary", "too small"),
            ]
        )


def test_the_table_shows_the_worst_first():
    from rich.console import Console

    console = Console(width=100, record=True, file=io.StringIO())
    findings = [Finding("ok", "size", "fine"), Finding("fatal", "length", "bad [B, T]")]
    console.print(doctor.findings_table(findings))
    text = console.export_text()
    assert text.index("fatal") < text.index("fine")
    assert "bad [B, T]" in text


def _folders(tmp_path, student_words, **options):
    return {
        "teacher": {"model": save_tokenizer(tmp_path / "teacher", WORDS)},
        "student": {"model": save_tokenizer(tmp_path / "student", student_words, **options)},
    }


def test_tokenizers_that_agree(healthy, tmp_path):
    setup = healthy(_folders(tmp_path, WORDS))
    assert "12 tokens" in _one(checks_text.tokenizers(setup), "ok")


def test_tokenizer_with_other_ids(healthy, tmp_path):
    swapped = [*WORDS[:4], "b", "a", *WORDS[6:-1]]
    message = _one(checks_text.tokenizers(healthy(_folders(tmp_path, swapped))), "fatal")
    assert message.startswith("3 of 12 tokens have another id")
    assert "student.layers" in message


def test_tokenizer_that_lower_cases(healthy, tmp_path):
    words = [*WORDS, "Good"]
    dataset = _split(text_dataset(), "validation", texts=(["Good film", "a film", "Good"],))
    sections = _folders(tmp_path, words, lowercase=True)
    save_tokenizer(tmp_path / "teacher", words)
    message = _one(checks_text.tokenizers(healthy(sections, dataset=dataset)), "fatal")
    assert "cuts 2 of 3 texts into other tokens (e.g. 'Good film'" in message


def test_tokenizer_that_is_missing(healthy, tmp_path):
    sections = _folders(tmp_path, WORDS)
    (tmp_path / "student" / "tokenizer.json").unlink()
    assert "cannot be compared" in _one(checks_text.tokenizers(healthy(sections)), "warning")


@pytest.mark.parametrize("who", ["teacher", "student"])
def test_vocabulary_too_small(healthy, who):
    small = encoder(1, vocab_size=len(WORDS) - 1)
    message = _one(checks_text.vocabulary(healthy(**{who: small})), "fatal")
    assert f"the {who} has 11 embeddings" in message
    assert "at least 12" in message


def test_positions_too_few(healthy):
    small = encoder(1, max_position_embeddings=15)
    message = _one(checks_text.lengths(healthy(student=small)), "fatal")
    assert "the student has 15 positions; set data.max_length=15" in message


def test_positions_of_roberta_start_after_the_padding(healthy):
    model = encoder(1, family="roberta", max_position_embeddings=17, pad_token_id=1)
    assert checks_text.usable_positions(model) == 15
    assert "has 15 positions" in _one(checks_text.lengths(healthy(teacher=model)), "fatal")


def test_rows_that_are_cut(healthy):
    cut = text_dataset(**{"train.cut": 32})
    message = _one(checks_text.lengths(healthy(dataset=cut)), "warning")
    assert "32 of 64 rows of train (50.0 %) are cut to 16 tokens" in message
    assert "raise data.max_length (up to 32)" in message
    full = healthy({"data": {"train": "x", "max_length": 32}}, dataset=cut)
    assert "no more positions" in _one(checks_text.lengths(full), "warning")


def test_token_types(healthy):
    pairs = text_dataset(pairs=True)
    assert "2 token type(s)" in _one(checks_text.token_types(healthy(dataset=pairs)), "ok")
    assert not list(checks_text.token_types(healthy()))

    untyped = encoder(1, type_vocab_size=1)
    message = _one(checks_text.token_types(healthy(dataset=pairs, student=untyped)), "fatal")
    assert "the student knows 1" in message
    assert "type_vocab_size=2" in message

    without = dataclasses.replace(untyped, config=None)
    message = _one(checks_text.token_types(healthy(dataset=pairs, student=without)), "warning")
    assert "separators" in message


def test_a_teacher_fed_without_its_token_types(healthy):
    pairs = text_dataset(pairs=True)
    for part in ("train", "validation"):
        pairs = _split(pairs, part, token_types=np.zeros_like(getattr(pairs, part).token_types))
    findings = list(checks_text.token_types(healthy(dataset=pairs)))
    assert [finding.level for finding in findings] == ["warning", "warning"]
    assert "the teacher has 2 token types, but the tokenizer marks both" in findings[0].message


def test_label_order(healthy, tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps({"id2label": {"1": "negative", "0": "positive"}})
    )
    setup = healthy({"teacher": {"model": str(tmp_path)}})
    findings = list(checks_labels.label_order(setup))
    assert {finding.level for finding in findings} == {"fatal"}
    assert "set data.labels=[positive, negative]" in findings[0].message
    assert "the data has ['negative', 'positive'], the teacher has ['positive'" in str(findings[0])


def test_label_order_of_the_student(healthy):
    reversed_student = encoder(1, labels=LABELS[::-1])
    findings = list(checks_labels.label_order(healthy(student=reversed_student)))
    assert {finding.level for finding in findings} == {"fatal"}
    assert len(findings) == 2  # against the data and against the teacher


def test_labels_of_other_names(healthy):
    other = encoder(2, labels=("neg", "pos"))
    findings = list(checks_labels.label_order(healthy(teacher=other)))
    assert {finding.level for finding in findings} == {"warning"}
    assert "position 0" in findings[0].message
    same = encoder(2, labels=("Negative", "POSITIVE "))
    _one(checks_labels.label_order(healthy(teacher=same)), "ok")
    unnamed = encoder(2, labels=("LABEL_0", "LABEL_1"))
    _one(checks_labels.label_order(healthy(teacher=unnamed)), "ok")


@pytest.mark.parametrize("label", [-1, 2])
def test_labels_out_of_range(healthy, label):
    dataset = text_dataset()
    labels = dataset.train.labels.copy()
    labels[3] = label
    setup = healthy(dataset=_split(dataset, "train", labels=labels))
    message = _one(checks_labels.label_range(setup), "fatal")
    assert message.startswith(f"train: 1 labels are outside 0 to 1 (e.g. {label})")


def test_labels_of_other_tasks(healthy):
    values = text_dataset().train.labels.astype(np.float32)
    values[0] = np.nan
    dataset = dataclasses.replace(_split(text_dataset(), "train", labels=values), num_labels=1)
    setup = healthy({"task": "regression"}, dataset=dataset, teacher=encoder(1, labels=("x",)))
    findings = list(checks_labels.label_range(dataclasses.replace(setup, student=None)))
    assert "no finite numbers" in findings[0].message

    flags = np.full((64, 2), 0.5, np.float32)
    dataset = _split(_split(text_dataset(), "train", labels=flags), "validation", labels=flags * 0)
    setup = healthy({"task": "multilabel"}, dataset=dataset)
    assert "neither 0 nor 1" in _one(checks_labels.label_range(setup), "fatal")


def test_outputs_that_are_not_the_labels(healthy):
    message = _one(
        checks_labels.label_range(healthy(student=encoder(1, labels=tuple("abc")))), "fatal"
    )
    assert "the student has 3 outputs, the data has 2 labels" in message


def test_classes_that_are_never_taught(healthy):
    dataset = text_dataset()
    setup = healthy(dataset=_split(dataset, "train", labels=0 * dataset.train.labels))
    message = _one(checks_labels.label_range(setup), "warning")
    assert "1 classes of validation never occur in train (positive)" in message


def test_overlap(healthy):
    setup = healthy(dataset=text_dataset(**{"validation.seen": 40}))
    message = _one(checks_labels.overlap(setup), "warning")
    assert "40 of 400 inputs of validation (10.0 %)" in message
    few = healthy(dataset=text_dataset(**{"validation.seen": 4}))
    assert "4 held-out inputs" in _one(checks_labels.overlap(few), "ok")


def test_evaluation_size(healthy):
    dataset = text_dataset()
    setup = healthy(dataset=dataclasses.replace(dataset, test=dataset.train))
    message = _one(checks_labels.evaluation_size(setup), "warning")
    assert "64 held-out examples" in message
    assert "±12.5 points" in message


def test_a_teacher_that_was_never_fine_tuned(healthy):
    fresh = encoder(2)
    assert any(path.startswith("head/output") for path in fresh.initialized)
    message = _one(checks_teacher.teacher_head(healthy({"finetune": None}, teacher=fresh)), "fatal")
    assert "freshly initialised" in message
    assert "drop `finetune: null`" in message
    assert not list(checks_teacher.teacher_head(healthy(teacher=fresh)))
    _one(checks_teacher.teacher_head(healthy({"finetune": None})), "ok")
    partial = dataclasses.replace(fresh, initialized=("embeddings/word/embedding",))
    _one(checks_teacher.teacher_head(healthy({"finetune": None}, teacher=partial)), "warning")


def _skill(healthy, labels, said, config=None):
    setup = healthy(config, teacher_logits=np.eye(3)[said], teacher_labels=labels)
    return checks_teacher.teacher_skill(setup)


def test_a_teacher_at_chance(healthy):
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 600)
    message = _one(_skill(healthy, labels, random.integers(0, 3, 600)), "fatal")
    assert "chance is 33.3 %" in message
    assert "finetune.learning_rate" in message
    assert "another order" not in message
    untrained = _skill(healthy, labels, np.zeros(600, int), {"finetune": None})
    assert "let finetune train it" in _one(untrained, "fatal")


def test_a_teacher_hardly_above_the_majority(healthy):
    labels = np.array([0] * 80 + [1] * 20)
    message = _one(_skill(healthy, labels, np.array([0] * 82 + [1] * 18)), "ok")
    assert "commonest answer 80.0 %" in message
    message = _one(_skill(healthy, labels, np.array([0] * 97 + [1] * 3)), "warning")
    assert "hardly" in message
    assert _one(_skill(healthy, labels, np.zeros(100, int)), "fatal")
    # Rare classes found at the price of accuracy are skill where F1 ranks.
    said = np.array([0] * 58 + [1] * 42)
    assert _one(_skill(healthy, labels, said), "fatal")
    _one(_skill(healthy, labels, said, {"metric": "f1"}), "warning")


def test_a_teacher_with_its_labels_in_another_order(healthy):
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 300)
    said = np.where(random.uniform(size=300) < 0.9, (labels + 1) % 3, labels)
    message = _one(_skill(healthy, labels, said), "fatal")
    assert "with its labels in another order it would be 88.7 %" in message
    assert "0 -> 2, 1 -> 0, 2 -> 1" in message


def test_teachers_of_other_tasks(healthy):
    random = np.random.default_rng(0)
    values = random.normal(size=200)
    setup = healthy({"task": "regression"}, teacher_labels=values, teacher_logits=-values[:, None])
    assert "-1.000; it has nothing to teach" in _one(checks_teacher.teacher_skill(setup), "fatal")
    setup = dataclasses.replace(setup, teacher_logits=values[:, None] + 1)
    _one(checks_teacher.teacher_skill(setup), "ok")

    flags = random.integers(0, 2, (200, 3))
    setup = healthy(
        {"task": "multilabel"}, teacher_labels=flags, teacher_logits=np.where(flags, 1.0, -1.0)
    )
    assert "exact_match is 100.0 %" in _one(checks_teacher.teacher_skill(setup), "ok")
    never = dataclasses.replace(setup, teacher_logits=-np.ones((200, 3)))
    _one(checks_teacher.teacher_skill(never), "fatal")


def test_a_student_that_is_not_smaller(healthy):
    setup = healthy()
    swapped = healthy(teacher=setup.student, student=setup.teacher)
    assert "exchanged" in _one(checks_teacher.sizes(swapped), "warning")


def test_batches_that_devices_do_not_divide(healthy):
    assert jax.device_count() == 8
    setup = healthy({"train": {"batch_size": 12}})
    message = _one(checks_machine.devices(setup), "fatal")
    assert "train.batch_size is 12, which 8 devices x 1 microbatches do not divide" in message
    assert "set train.batch_size=16" in message
    split = {"batch_size": 32, "accumulate": 8}
    assert "finetune" in _one(checks_machine.devices(healthy({"finetune": split})), "fatal")
    _one(checks_machine.devices(healthy({"train": split, "parallel": {"data": 4}})), "ok")
    few = healthy({"parallel": {"data": 9}})
    assert "but 8 are present" in _one(checks_machine.devices(few), "fatal")


def test_memory(healthy, monkeypatch):
    setup = healthy({"parallel": {"data": 1}})
    parameters = sum(leaf.size for leaf in jax.tree.leaves(setup.student.params))
    teacher = sum(leaf.size for leaf in jax.tree.leaves(setup.teacher.params))
    fixed = 4 * (teacher + 4 * parameters)  # parameters, gradients, two moments
    monkeypatch.setattr(checks_machine, "available_memory", lambda: (fixed - 1, "here"))
    assert "take a smaller model" in _one(checks_machine.memory(setup), "fatal")
    monkeypatch.setattr(checks_machine, "available_memory", lambda: (fixed + 1, "here"))
    assert "train.accumulate=2" in _one(checks_machine.memory(setup), "warning")
    monkeypatch.setattr(checks_machine, "available_memory", lambda: (10**12, "here"))
    assert "1000.0 GB here" in _one(checks_machine.memory(setup), "ok")


def test_activations_grow_with_the_rows_of_a_device(healthy):
    def kept(batch_size, **train):
        config = {"train": {"batch_size": batch_size, **train}, "parallel": {"data": 1}}
        setup = healthy(config)
        return checks_machine.activation_bytes(setup, setup.student, setup.config.train)

    assert 1.9 < kept(64) / kept(32) < 2.1
    assert kept(64, accumulate=2) == kept(32)
    # At least the hidden states of the one layer: rows x tokens x width x 4 bytes.
    assert kept(32) > 32 * 8 * 8 * 4


def test_available_memory_is_that_of_this_host():
    count, what = checks_machine.available_memory()
    assert 10**8 < count < 10**14
    assert "host" in what
