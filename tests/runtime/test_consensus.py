"""Processes that agree on where to act, who notice silence, and who meet before they start."""

import random
import socket
import threading
import time

import pytest

from jaxdistill.errors import ConfigError, ProcessError
from jaxdistill.runtime import group as processes
from jaxdistill.runtime import rendezvous
from jaxdistill.runtime.consensus import Agreement
from jaxdistill.runtime.heartbeat import Watcher
from jaxdistill.runtime.launch_local import free_port
from jaxdistill.runtime.settings import ProcessSettings, from_environment, to_environment


class SharedBoard:
    """The coordinator's store, in this process."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.broken = False

    def _check(self) -> None:
        if self.broken:
            raise RuntimeError("UNAVAILABLE: Socket closed")

    def put(self, key: str, text: str) -> None:
        self._check()
        self.texts = {**self.texts, key: text}

    def get(self, key: str) -> str | None:
        self._check()
        return self.texts.get(key)

    def under(self, folder: str) -> dict[str, str]:
        self._check()
        start = f"{folder}/"
        return {
            key.removeprefix(start): text
            for key, text in self.texts.items()
            if key.startswith(start)
        }


def act_together(lasting: bool, asks: dict[int, int], polls: int, seed: int) -> list[list[int]]:
    """Let three threads poll at their own pace; return at which polls each was told to act."""
    board, count = SharedBoard(), 3
    agreements = [Agreement("stop", lasting=lasting) for _ in range(count)]
    done = threading.Event()
    acted: list[list[int]] = [[] for _ in range(count)]

    def settle(index: int) -> None:
        while not done.wait(0.002):
            agreements[index].settle(board, index, count, breathe=lambda: not done.is_set())

    def work(index: int) -> None:
        pace = random.Random(f"{seed} {index}")
        for poll in range(1, polls + 1):
            if asks.get(poll) == index:
                agreements[index].ask()
            if agreements[index].poll():
                acted[index].append(poll)
            time.sleep(0.002 * pace.random())

    for agreement in agreements:
        agreement.among_several()
    helpers = [threading.Thread(target=settle, args=(index,)) for index in range(count)]
    workers = [threading.Thread(target=work, args=(index,)) for index in range(count)]
    for thread in helpers + workers:
        thread.start()
    for thread in workers:
        thread.join(30)
    done.set()
    for thread in helpers:
        thread.join(30)
    assert not any(thread.is_alive() for thread in helpers + workers)
    return acted


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_all_stop_at_the_same_poll_and_stay_stopped(seed):
    acted = act_together(True, {20: 1}, polls=200, seed=seed)
    assert acted[0] == acted[1] == acted[2]
    assert 20 <= acted[0][0] < 150
    assert acted[0] == list(range(acted[0][0], 201))


def test_all_save_at_the_same_polls_as_often_as_it_is_asked():
    acted = act_together(False, {10: 0, 120: 2}, polls=300, seed=3)
    assert acted[0] == acted[1] == acted[2]
    assert len(acted[0]) == 2
    assert acted[0][0] >= 10
    assert acted[0][1] >= 120


def test_one_process_acts_at_once():
    stop, save = Agreement("stop", lasting=True), Agreement("save", lasting=False)
    assert not stop.poll()
    stop.ask()
    save.ask()
    assert [stop.poll(), stop.poll()] == [True, True]
    assert [save.poll(), save.poll()] == [True, False]
    stop.reset()
    assert not stop.poll()


def test_agreeing_gives_up_where_a_process_has_left():
    stop = Agreement("stop", lasting=True)
    stop.among_several()
    stop.ask()
    stop.settle(SharedBoard(), 0, 2, breathe=lambda: False)
    assert not stop.poll()


def watchers(board: SharedBoard, count: int, ended: list[str]) -> list[Watcher]:
    hosts = [f"node{index}" for index in range(count)]
    return [
        Watcher(board, index, hosts, heartbeat_seconds=1.0, end=ended.append)
        for index in range(count)
    ]


def tick_until(condition, *alive: Watcher, seconds: float = 6.0) -> float:
    start = time.monotonic()
    while not condition() and time.monotonic() - start < seconds:
        for watcher in alive:
            watcher.tick()
        time.sleep(0.02)
    return time.monotonic() - start


def test_a_silent_process_is_named_within_the_heartbeat():
    board, ended = SharedBoard(), []
    first, second, third = watchers(board, 3, ended)
    tick_until(lambda: False, first, second, third, seconds=0.3)
    assert not ended
    took = tick_until(lambda: len(ended) == 2, first, third)
    assert took < 1.0
    assert ended[0].startswith("process 1 (on node1) was not heard of for ")
    assert ended[0] == ended[1]  # Only process 0 looks after all; it tells the others.


def test_a_process_that_left_on_purpose_is_not_missed():
    board, ended = SharedBoard(), []
    first, second = watchers(board, 2, ended)
    tick_until(lambda: False, first, second, seconds=0.1)
    board.put("gone/1", "")
    tick_until(lambda: bool(ended), first, seconds=1.5)
    assert not ended
    assert first.gone() == {1}


@pytest.mark.slow
def test_a_lost_coordinator_and_a_reported_failure_are_named():
    board, ended = SharedBoard(), []
    _, second, third = watchers(board, 3, ended)
    board.put("alive/0", "1")
    board.broken = True
    tick_until(lambda: bool(ended), second)
    assert ended[0].startswith("process 0 (on node0) was not heard of")
    ended.clear()
    board.broken = False
    third.report(1, "ended with exit code 2")
    board.put("alive/0", "2")
    while not ended:
        board.put("alive/0", str(time.monotonic()))
        third.tick()
        time.sleep(0.05)
    assert ended == ["process 1 (on node1) ended with exit code 2"]


def gather(count: int, arriving: dict[int, tuple[int, int]], seconds: float) -> dict[int, object]:
    """Let processes `{thread: (process_id, processes)}` meet; return what each was told."""
    address = f"127.0.0.1:{free_port()}"
    told: dict[int, object] = {}

    def come(thread: int, process_id: int, processes: int) -> None:
        try:
            told[thread] = rendezvous.meet(
                address,
                processes=processes,
                process_id=process_id,
                seconds=seconds,
                bind=address,
            )
        except ProcessError as error:
            told[thread] = str(error)

    threads = [
        threading.Thread(target=come, args=(thread, *who)) for thread, who in arriving.items()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    # jax listens at the same port next.
    socket.create_server(("127.0.0.1", int(address.split(":")[1]))).close()
    return told


def test_processes_meet_and_leave_the_port_free():
    told = gather(3, {0: (0, 3), 1: (1, 3), 2: (2, 3)}, 20.0)
    assert told == dict.fromkeys(range(3), [socket.gethostname()] * 3)


def test_the_missing_processes_are_named_to_all():
    told = gather(4, {0: (0, 4), 2: (2, 4)}, 1.0)
    for message in told.values():
        assert "processes 1, 3 of 4 did not come to 127.0.0.1:" in str(message)
        assert "within 1 s" in str(message)
    alone = gather(2, {1: (1, 2)}, 0.5)
    assert "process 0 did not answer process 1 at 127.0.0.1:" in str(alone[1])


def test_processes_that_were_told_different_things_are_named():
    twice = gather(3, {0: (0, 3), 1: (1, 3), 2: (1, 3)}, 10.0)
    assert all("two processes have --process-id 1" in str(said) for said in twice.values())
    other = gather(2, {0: (0, 2), 1: (1, 3)}, 10.0)
    assert all("told of 3 processes, process 0 of 2" in str(said) for said in other.values())


def test_many_missing_processes_are_counted():
    assert rendezvous.name_processes([3]) == "process 3"
    assert rendezvous.name_processes(range(12)) == "processes 0, 1, 2, 3, 4, 5, 6, 7 and 4 others"


def test_strangers_at_the_port_are_ignored():
    address = f"127.0.0.1:{free_port()}"
    told: list[object] = []
    meet = threading.Thread(
        target=lambda: told.append(
            rendezvous.meet(address, processes=2, process_id=0, seconds=20, bind=address)
        )
    )
    meet.start()
    time.sleep(0.2)
    with socket.create_connection(("127.0.0.1", int(address.split(":")[1]))) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
    rendezvous.meet(address, processes=2, process_id=1, seconds=20)
    meet.join(30)
    assert told == [[socket.gethostname()] * 2]


def test_settings_go_through_the_environment():
    settings = ProcessSettings("host:1234", 4, 3, heartbeat_seconds=5.5)
    assert from_environment(to_environment(settings)) == settings
    assert from_environment({}) == ProcessSettings()
    assert not ProcessSettings().explicit
    assert settings.explicit


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"PROCESSES": "two"}, "JAXDISTILL_PROCESSES: got 'two', expected a number"),
        ({"PROCESSES": "0"}, "--processes: got 0"),
        ({"PROCESSES": "2", "PROCESS_ID": "2"}, "--process-id: got 2, expected 0 to 1"),
        ({"COORDINATOR": "host"}, "--coordinator: got 'host', expected HOST:PORT"),
        ({"HEARTBEAT_SECONDS": "0"}, "--heartbeat-timeout: got 0.0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        from_environment({f"JAXDISTILL_{name}": text for name, text in values.items()})


def test_a_part_of_the_settings_is_refused_by_name():
    with pytest.raises(ConfigError, match="--processes: got it without --coordinator and --pro"):
        processes.start({"JAXDISTILL_PROCESSES": "2"})


def test_one_process_starts_nothing(monkeypatch):
    for name in ("KUBERNETES_SERVICE_HOST", "SLURM_JOB_ID", "OMPI_MCA_orte_hnp_uri"):
        monkeypatch.delenv(name, raising=False)
    for environment in ({}, {"JAXDISTILL_PROCESSES": "1"}, {"SLURM_NTASKS": "1"}):
        processes.start(environment)
        assert (processes.index(), processes.count()) == (0, 1)
    assert processes.everyone("all", "x") == ["x"]
    assert processes.first("one", lambda: 3) == 3


CLUSTERS = {
    "slurm": (
        {
            "SLURM_JOB_ID": "4097",
            "SLURM_STEP_NODELIST": "gpu[07-09]",
            "SLURM_NTASKS": "12",
            "SLURM_PROCID": "5",
            "SLURM_LOCALID": "1",
            "SLURM_STEP_NUM_NODES": "3",
        },
        ("gpu07:", 12, 5, [1]),
    ),
    "open mpi": (
        {
            "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
            "OMPI_COMM_WORLD_SIZE": "8",
            "OMPI_COMM_WORLD_RANK": "7",
            "OMPI_COMM_WORLD_LOCAL_RANK": "3",
        },
        ("10.96.0.1:", 8, 7, [3]),
    ),
}


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_a_cluster_tells_where_the_others_are(monkeypatch, cluster):
    variables, (host, *expected) = CLUSTERS[cluster]
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    met = []

    def meet(coordinator, **options):
        met.append((coordinator, options["processes"], options["process_id"]))
        raise ProcessError("far enough")

    monkeypatch.setattr(processes, "meet", meet)
    with pytest.raises(ProcessError):
        processes.start(variables)
    ((coordinator, *found),) = met
    assert coordinator.startswith(host)
    assert found == expected[:2]


def test_open_mpi_that_tells_too_little_says_what_to_give():
    with pytest.raises(ConfigError, match="give --coordinator HOST:PORT"):
        processes.start({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"})
