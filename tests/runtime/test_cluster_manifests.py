"""What is printed for clusters is valid there, as far as can be told from here."""

import shlex
import subprocess

import pytest
import yaml

from jaxdistill.cli import app as cli
from jaxdistill.errors import ConfigError
from jaxdistill.runtime.cluster_manifests import RECIPES, render, tpu

COMMAND = ["run", "configs/sst2.yaml", "teacher.model=a 'b'", "name=it's"]
WORDS = ["jaxdistill", *COMMAND, "--workdir", "/shared/jaxdistill"]


def parsed(script: str) -> None:
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("recipe", ["slurm", "tpu", "gpu"])
def test_scripts_parse(recipe):
    script = render(recipe, COMMAND)
    parsed(script)
    assert script.startswith("#!/bin/bash\n")
    assert script.endswith("\n")


def test_the_jobset_has_what_gke_asks_for():
    manifest = yaml.safe_load(render("gke", COMMAND, ["topology=v5p:4x4x8", "slices=2"]))
    assert (manifest["apiVersion"], manifest["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert manifest["metadata"]["name"] == "jaxdistill"
    assert manifest["spec"]["failurePolicy"]["maxRestarts"] == 10
    (job,) = manifest["spec"]["replicatedJobs"]
    assert job["replicas"] == 2
    spec = job["template"]["spec"]
    assert spec["parallelism"] == spec["completions"] == 4 * 4 * 8 // 4
    assert spec["completionMode"] == "Indexed"
    assert spec["backoffLimit"] == 0
    pod = spec["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    assert pod["terminationGracePeriodSeconds"] >= 10
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5p-slice",
        "cloud.google.com/gke-tpu-topology": "4x4x8",
    }
    (container,) = pod["containers"]
    assert container["command"] == WORDS
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    (mount,), (volume,) = container["volumeMounts"], pod["volumes"]
    assert mount["name"] == volume["name"]
    assert WORDS[-1].startswith(mount["mountPath"])


def test_sbatch_starts_a_process_per_gpu_and_queues_again_when_preempted():
    script = render("slurm", COMMAND, ["nodes=4", "gpus_per_node=2"])
    options = dict(
        line.removeprefix("#SBATCH --").split("=", 1)
        for line in script.splitlines()
        if line.startswith("#SBATCH") and "=" in line
    )
    assert options["nodes"] == "4"
    assert options["ntasks-per-node"] == options["gpus-per-node"] == "2"
    assert options["signal"].startswith("TERM@")
    (line,) = [line for line in script.splitlines() if line.startswith("srun")]
    words = shlex.split(line)
    assert words[words.index("jaxdistill") :] == WORDS
    # Run it with commands that stand for SLURM's: the job is queued again after 75, and only then.
    for code, queued in ((75, True), (0, False), (2, False)):
        fake = f"srun() {{ return {code}; }}; scontrol() {{ echo queued; }}; SLURM_JOB_ID=1\n"
        done = subprocess.run(["bash"], input=fake + script, capture_output=True, text=True)
        assert done.returncode == code
        assert ("queued" in done.stdout) == queued


def test_hosts_with_gpus_start_beside_each_other_and_the_first_failure_is_told():
    script = render("gpu", COMMAND, ["hosts=a,b,c", "port=1234"])
    fake = 'ssh() { echo "$2 $3"; [ "$2" != b ] || return 9; }\n'
    done = subprocess.run(["bash"], input=fake + script, capture_output=True, text=True)
    assert done.returncode == 9
    lines = sorted(done.stdout.splitlines())
    for index, (host, line) in enumerate(zip("abc", lines, strict=True)):
        where = ["--coordinator", "a:1234", "--processes", "3", "--process-id", str(index)]
        assert shlex.split(line) == [host, *WORDS, *where]
    alone = render("gpu", COMMAND, ["hosts=a"])
    assert shlex.split(alone.splitlines()[-1]) == WORDS


def test_gcloud_runs_the_command_on_all_workers():
    script = render("tpu", COMMAND, ["topology=v6e:16x16", "zone=eu w"])
    fake = 'gcloud() { for word in "$@"; do echo "$word"; done; }\n'
    done = subprocess.run(["bash"], input=fake + script, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert "--accelerator-type=v6e-256" in said
    assert said.count("--worker=all") == 2
    assert said.count("--zone=eu w") == 4
    last = [word for word in said if word.startswith("--command=")][-1]
    assert shlex.split(last.removeprefix("--command=")) == WORDS


@pytest.mark.parametrize(
    ("topology", "kind", "hosts", "chips_per_host"),
    [
        ("v5e:1x1", "v5litepod-1", 1, 1),
        ("v5e:2x4", "v5litepod-8", 1, 8),
        ("v5e:4x4", "v5litepod-16", 4, 4),
        ("v4:2x2x2", "v4-16", 2, 4),
        ("v5p:8x8x8", "v5p-1024", 128, 4),
    ],
)
def test_topologies_as_google_names_them(topology, kind, hosts, chips_per_host):
    found = tpu(topology)
    assert found["accelerator_type"] == kind
    assert (found["hosts"], found["chips_per_host"]) == (hosts, chips_per_host)


@pytest.mark.parametrize(
    ("recipe", "settings", "message"),
    [
        ("gkee", [], "--print: got 'gkee'.*Did you mean 'gke'"),
        ("gke", ["topology=v9:2x2"], "expected GENERATION:SHAPE"),
        ("gke", ["topology=v5p:4x4"], "expected 3 sizes for v5p"),
        ("gke", ["topology=v5e:3x3"], "9 chips, expected a multiple of 4"),
        ("slurm", ["node=2"], "Did you mean 'nodes'"),
        ("slurm", ["nodes=many"], "--set nodes: got 'many', expected a positive number"),
        ("tpu", ["name=My Run"], "--set name: got 'My Run'"),
        ("gpu", ["hosts=a,a"], "--set hosts"),
    ],
)
def test_what_cannot_work_is_refused(recipe, settings, message):
    with pytest.raises(ConfigError, match=message):
        render(recipe, COMMAND, settings)


def test_the_command_prints_a_recipe(capsys):
    command = ["launch", "--print", "slurm", "--set", "nodes=3", "run", "c.yaml", "--workdir", "/w"]
    assert cli.call(command) == 0
    script = capsys.readouterr().out
    assert script == render("slurm", ["run", "c.yaml", "--workdir", "/w"], ["nodes=3"])
    assert "--workdir /w\n" in script
    assert set(RECIPES) == {"gke", "slurm", "tpu", "gpu"}
