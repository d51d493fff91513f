"""A writer killed at random moments, again and again: whole shards stay, the rest is swept."""

import json
import subprocess
import sys

import numpy as np
import pytest

from jaxdistill.teachers.cache.reader import open_cache

# One process imports everything and forks the writers, which it kills.
_SCRIPT = """
import json, os, random, signal, sys, time, warnings
import numpy as np
from jaxdistill.teachers.cache.writer import CacheWriter
from jaxdistill.teachers.cache.codecs import Full
from jaxdistill.teachers.cache.writer_part import Part

warnings.simplefilter("ignore")
path, kills, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
random.seed(seed)

def values(example):
    return np.random.default_rng(example).normal(0, 1, (20, 8)).astype(np.float32)

def write():
    options = dict(width=8, process_index=0, process_count=1, shard_bytes=4 * 640)
    with CacheWriter(path, Full(), {"teacher": "t"}, **options) as writer:
        for example in range(400):
            if not writer.has([example])[0]:
                writer.write_encoded([example], {"logits": values(example)}, [20])
                time.sleep(0.002)  # A teacher's time: on no machine is it done before the kills.

history = []
for _ in range(kills):
    child = os.fork()
    if not child:
        write()
        os._exit(0)
    time.sleep(random.uniform(0.02, 0.25))
    os.kill(child, signal.SIGKILL)
    killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    note = os.path.join(path, "writers", "00000.json")
    shards = json.load(open(note))["shards"] if os.path.exists(note) else []
    complete = os.path.exists(os.path.join(path, "manifest.json"))
    history.append([killed, sum(shard["examples"] for shard in shards), complete])
    if not killed:
        break
write()
print(json.dumps(history))
"""


@pytest.mark.slow
def test_a_writer_killed_at_random_moments_ends_with_a_whole_cache(tmp_path):
    path = tmp_path / "cache"
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, str(path), "8", "0"],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    history = json.loads(done.stdout.splitlines()[-1])
    stored = [examples for _, examples, _ in history]
    assert sum(killed for killed, _, _ in history) >= 3
    assert stored == sorted(stored)  # no kill lost a whole shard
    assert not any(complete for killed, examples, complete in history if killed and examples < 400)
    cache = open_cache(path, {"teacher": "t"}, verify=True)
    np.testing.assert_array_equal(cache.examples, np.arange(400))
    fields, lengths = cache.read(np.arange(400))
    assert (lengths == 20).all()
    for example in range(400):
        expected = np.random.default_rng(example).normal(0, 1, (20, 8)).astype(np.float32)
        np.testing.assert_array_equal(fields["logits"][20 * example :][:20], expected)
    left = {file.name for folder in ("shards", "writers") for file in (path / folder).iterdir()}
    assert not any(name.endswith(".tmp") for name in left)
    assert {f"shards/{name}" for name in left if name.endswith(".safetensors")} == {
        record["file"] for record in cache.manifest["shards"]
    }
