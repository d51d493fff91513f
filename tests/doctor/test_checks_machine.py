"""Batches that devices do not divide, and memory that does not suffice, are found."""

import dataclasses

import jax
import numpy as np
from support.findings import only

from jaxdistill.data.batching.pack_documents import pack_rows
from jaxdistill.data.split import make_split
from jaxdistill.data.text.corpus import Corpus
from jaxdistill.doctor import checks_machine


def test_batches_that_devices_do_not_divide(healthy):
    assert jax.device_count() == 8
    setup = healthy({"train": {"batch_size": 12}})
    message = only(checks_machine.devices(setup), "fatal")
    assert "train.batch_size is 12, which 8 devices x 1 microbatches do not divide" in message
    assert "set train.batch_size=16" in message
    split = {"batch_size": 32, "accumulate": 8}
    assert "finetune" in only(checks_machine.devices(healthy({"finetune": split})), "fatal")
    only(checks_machine.devices(healthy({"train": split, "parallel": {"data": 4}})), "ok")
    few = healthy({"parallel": {"data": 9}})
    assert "but 8 are present" in only(checks_machine.devices(few), "fatal")


def test_full_rows_that_devices_do_not_divide(healthy):
    corpus = Corpus(
        np.arange(60, dtype=np.int32), np.ones(60, bool), np.ones(60, np.int32), np.array([0, 60])
    )
    split = make_split(*pack_rows(corpus, 7, pad_id=0))
    rows = dataclasses.replace(healthy().dataset, train=split, modality="documents")
    config = {"parallel": {"data": 4, "sequence": 2}}
    message = only(checks_machine.devices(healthy(config, dataset=rows)), "fatal")
    assert "does not divide rows of 7 tokens" in message
    only(checks_machine.devices(healthy(config)), "ok")  # rows that can be padded


def test_memory(healthy, monkeypatch):
    setup = healthy({"parallel": {"data": 1}})
    parameters = sum(leaf.size for leaf in jax.tree.leaves(setup.student.params))
    teacher = sum(leaf.size for leaf in jax.tree.leaves(setup.teacher.params))
    fixed = 4 * (teacher + 4 * parameters)  # parameters, gradients, two moments
    monkeypatch.setattr(checks_machine, "available_memory", lambda: (fixed - 1, "here"))
    assert "take a smaller model" in only(checks_machine.memory(setup), "fatal")
    monkeypatch.setattr(checks_machine, "available_memory", lambda: (fixed + 1, "here"))
    assert "train.accumulate=2" in only(checks_machine.memory(setup), "warning")
    monkeypatch.setattr(checks_machine, "available_memory", lambda: (10**12, "here"))
    assert "1000.0 GB here" in only(checks_machine.memory(setup), "ok")


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
