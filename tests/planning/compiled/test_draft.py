"""Programs for TPUs laid out without machine code, against the same ones compiled to the end."""

import pytest
from support.plans import STUDENT, TEACHER, config

from jaxdistill.planning import plan
from jaxdistill.planning.compiled import draft
from jaxdistill.planning.topology import missing_libtpu

REPORT = """Memory Space: default (color=0)
Total bytes: 1234 (1.2KiB)
  cumulative_size;       size
Memory Space: vmem (color=1)
Total bytes: 99 (99B)
"""
PROGRAM = "HloModule jit_step\n\nENTRY %main () -> () {\n  ROOT %t = () tuple()\n}\n\n"


def test_a_draft_is_read_once_it_is_written_whole(tmp_path):
    name = "module_0000.jit_step.after_optimizations"
    assert draft.read(tmp_path) is None
    report = tmp_path / f"{name}-memory-usage-report.txt"
    report.write_text(REPORT)
    assert draft.read(tmp_path) is None
    program = tmp_path / f"{name}_after_buffer_assignment.txt"
    program.write_text(PROGRAM[:-4])
    assert draft.read(tmp_path) is None
    program.write_text(PROGRAM)
    assert draft.read(tmp_path) == draft.Draft(PROGRAM, 1234)
    report.write_text(REPORT[:20])
    assert draft.read(tmp_path) is None


needs_libtpu = pytest.mark.skipif(missing_libtpu() is not None, reason=str(missing_libtpu()))


SIZES = {"vocab_size": 32768, "max_position_embeddings": 256}


def made(**options):
    wanted = config(
        data={"train": "nowhere.jsonl", "max_length": 256},
        teacher={"model": TEACHER | SIZES, "dtype": "bfloat16"},
        student={"model": STUDENT | SIZES},
    )
    return plan.plan(wanted, "v5e:2x2", mesh="data=2,fsdp=2", dense=False, suggest=False, **options)


@pytest.fixture(scope="module")
def whole():
    return made(machine_code=True).main


@needs_libtpu
def test_a_draft_says_what_the_whole_program_does(whole):
    found = made().main
    for name in ("flops", "moved_bytes", "messages", "seconds", "fits", "mfu"):
        assert getattr(found, name) == getattr(whole, name), name
    assert found.memory["program"] == 0 < whole.memory["program"]
    without_code = whole.peak_bytes - whole.memory["program"]
    assert found.peak_bytes == pytest.approx(without_code, rel=0.1)
    assert found.peak_bytes == sum(found.memory.values())


@needs_libtpu
def test_what_the_compiler_does_not_write_is_compiled_to_the_end(whole, monkeypatch, caplog):
    monkeypatch.setattr(draft, "_PROGRAM", "*.of_another_libtpu.txt")
    found = made().main
    assert found == whole
    assert "compiling joint to the end, which takes minutes: no layout" in caplog.text


@needs_libtpu
def test_a_process_that_fails_says_why():
    with pytest.raises(draft.NoDraftError, match=r"ended with 1: .*ConfigError"):
        draft.draft({"tasks": 1}, "joint", {"data": 4}, "v5e:2x2")
