"""A file is there whole or not at all: limits that the system really sets, and kills."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from jaxdistill.errors import ConfigError, ModelError
from jaxdistill.files.atomic import replacing, write_text
from jaxdistill.files.json_files import write_answer, write_json
from jaxdistill.files.model_folder import write_folder
from jaxdistill.files.safetensors_stream import Pending, write_file

# A file may grow to 4,096 bytes; what would make it longer fails as on a full disk.
LIMITED = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from jaxdistill.data.text.tokenize import save_arrays
from jaxdistill.distill.workspace import write_json as of_workdir
from jaxdistill.errors import ModelError
from jaxdistill.files.atomic import write_text
from jaxdistill.files.json_files import write_json
from jaxdistill.files.model_folder import write_folder
from jaxdistill.files.safetensors_stream import Pending, write_file
from jaxdistill.files.tensor_files import write_tensors

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
folder, long = Path(sys.argv[1]), np.zeros(5000, np.uint8)
pending = Pending(long.shape, long.dtype, lambda: long)
writers = {
    "text": lambda path: write_text(path, "x" * 5000),
    "json": lambda path: write_json(path, ["x" * 5000]),
    "workdir": lambda path: of_workdir(path, ["x" * 5000]),
    "cache": lambda path: write_tensors(path, {"a": long}),
    "tokens": lambda path: save_arrays(path, {"a": long}),
    "weights": lambda path: write_file(path, {"a": pending}, {}),
    "model": lambda path: write_folder(path, {}, {"a": pending}, []),
}
for name, write in writers.items():
    try:
        write(folder / name)
    except (OSError, ModelError) as error:
        print(name, error)
    else:
        sys.exit(f"{name} was written")
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


def test_a_full_disk_leaves_the_old_files_and_nothing_else(tmp_path):
    files = ("text", "json", "workdir", "cache", "tokens", "weights")
    for name in files:
        (tmp_path / name).write_text("old")
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("old")
    before = names(tmp_path)
    command = [sys.executable, "-c", LIMITED, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("File too large") == len(files) + 1
    assert names(tmp_path) == before
    assert all((tmp_path / name).read_text() == "old" for name in (*files, "model/config.json"))


def test_a_file_system_without_space_leaves_the_old_file(tmp_path):
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no small file system: mounting is not allowed here")
    try:
        write_text(tmp_path / "a", "old")
        with pytest.raises(OSError, match="No space left on device"):
            write_text(tmp_path / "a", "x" * 2**20)
        array = np.zeros(2**20, np.uint8)
        with pytest.raises(OSError, match="No space left on device"):
            write_file(tmp_path / "b", {"a": array})
        with pytest.raises(ConfigError, match=r"json: cannot write .*No space left on device"):
            write_answer(tmp_path / "c", {"a": "x" * 2**20})
        pending = Pending(array.shape, array.dtype, lambda: array)
        with pytest.raises(ModelError, match="the model cannot be written"):
            write_folder(tmp_path / "d", {}, {"a": pending}, [])
        assert names(tmp_path) == ["a"]
        assert (tmp_path / "a").read_text() == "old"
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_kill_leaves_the_old_file(tmp_path):
    (tmp_path / "a").write_text("old")
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from jaxdistill.files.atomic import replacing\n"
        "with replacing(Path(sys.argv[1])) as file:\n"
        "    file.write(b'new')\n"
        "    file.flush()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "a")]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert (tmp_path / "a").read_text() == "old"
    (left,) = set(names(tmp_path)) - {"a"}
    assert left.startswith("a.")
    assert left.endswith(".tmp")  # what caches sweep


def test_a_block_that_fails_writes_nothing(tmp_path):
    def fail():
        with replacing(tmp_path / "a") as file:
            file.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert names(tmp_path) == []


def test_all_is_synced_before_the_name_is_given(tmp_path, monkeypatch):
    seen = []
    sync, replace = os.fsync, os.replace

    def synced(handle):
        seen.append("folder" if os.path.isdir(f"/proc/self/fd/{handle}") else "file")
        sync(handle)

    def renamed(*paths, **options):
        seen.append("rename")
        replace(*paths, **options)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    write_json(tmp_path / "a", {"b": 1})
    assert seen == ["file", "rename", "folder"]
    assert json.loads((tmp_path / "a").read_text()) == {"b": 1}


def test_links_are_followed_and_modes_kept(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "real").chmod(0o600)
    (tmp_path / "link").symlink_to("real")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"
    assert (tmp_path / "real").stat().st_mode & 0o777 == 0o600
    write_text(tmp_path / "fresh", "ü")
    assert (tmp_path / "fresh").read_bytes() == "ü".encode()
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "fresh").stat().st_mode & 0o777 == 0o666 & ~umask


def test_pipes_are_written_in_place(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    got = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_text()))
    reader.start()
    write_answer(tmp_path / "pipe", {"a": 1})
    reader.join()
    assert json.loads(got[0]) == {"a": 1}
    assert names(tmp_path) == ["pipe"]


def test_a_shells_output_is_written_in_place(tmp_path):
    script = (
        "from pathlib import Path\n"
        "from jaxdistill.files.json_files import write_answer\n"
        "write_answer(Path('/dev/stdout'), {'a': 1})\n"
    )
    with (tmp_path / "out").open("w") as file:
        subprocess.run([sys.executable, "-c", script], stdout=file, check=True)
        # What is printed behind it must reach the same file.
        assert os.fstat(file.fileno()).st_ino == (tmp_path / "out").stat().st_ino
    assert json.loads((tmp_path / "out").read_text()) == {"a": 1}


def test_what_cannot_be_written_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"json: cannot write '.*/none/a' \(No such file"):
        write_answer(tmp_path / "none/a", {})
