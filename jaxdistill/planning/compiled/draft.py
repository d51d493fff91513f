"""What the compiler for TPUs decides of a program, without the machine code that it then writes.

When what runs, and where every array lies, is settled in seconds; machine code takes minutes more,
of which a plan needs next to nothing. The compiler cannot be asked to stop in between, but it
writes down what it has decided on request. So it runs in a separate process, which is ended as soon
as that is written.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from jaxdistill.planning.topology import open_topology, settle
from jaxdistill.types import Json

# Of what the compiler writes: the memory of all arrays, and, after it, the scheduled program.
_MEMORY = "*.after_optimizations-memory-usage-report.txt"
_PROGRAM = "*.after_optimizations_after_buffer_assignment.txt"
_TOTAL = re.compile(r"^Memory Space: default .*\nTotal bytes: (\d+)", re.MULTILINE)
_WANTED, _REFUSED = "wanted.json", "refused.txt"
_POLL_SECONDS = 0.1


@dataclasses.dataclass(frozen=True)
class Draft:
    """A program for a TPU before its machine code.

    Attributes:
      text: the scheduled program, as `as_text` of an executable writes it.
      peak_bytes: main memory of the chip that its arrays take, which is what the compiler compares
        with the memory there is.
    """

    text: str
    peak_bytes: int


class NoDraftError(Exception):
    """The compiler did not write down what it decided, and why."""


def draft(config: Json, name: str, mesh: dict[str, int], topology: str) -> Draft | str:
    """Compile a program as far as its layout in memory.

    Args:
      config: settings of the run, as JSON values.
      name: name of the program, one of `programs.PROGRAMS`.
      mesh: sizes of its axes.
      topology: name of a topology of TPUs.

    Returns:
      The draft; or, where the compiler refuses the program, its message.

    Raises:
      NoDraftError: the compiler of this libtpu writes other files than expected, or none.
    """
    package = Path(__file__).parents[3]
    paths = [str(package), *filter(None, [os.environ.get("PYTHONPATH")])]
    # On a TPU's host, this process may hold the TPU; the other one must not ask for it.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "JAX_PLATFORMS": "cpu"}
    wanted = {"config": config, "name": name, "mesh": mesh, "topology": topology}
    with tempfile.TemporaryDirectory(prefix="jaxdistill-plan-") as folder:
        Path(folder, _WANTED).write_text(json.dumps(wanted))
        said = Path(folder, "stderr.txt")
        with said.open("w") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", __name__, folder],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
            )
        try:
            while (found := read(Path(folder))) is None and process.poll() is None:
                time.sleep(_POLL_SECONDS)
        finally:
            process.kill()
            process.wait()
        found = found or read(Path(folder))
        if found is None:
            last = said.read_text().strip().splitlines()[-1:] or ["without a word"]
            raise NoDraftError(f"its process ended with {process.returncode}: {last[0]}")
        return found


def read(folder: Path) -> Draft | str | None:
    """Return what the compiler has written into a folder; None where that is not all yet."""
    if (refused := folder / _REFUSED).exists():
        return refused.read_text()
    programs, reports = sorted(folder.glob(_PROGRAM)), sorted(folder.glob(_MEMORY))
    if not programs or not reports:
        return None
    text, total = programs[0].read_text(), _TOTAL.search(reports[0].read_text())
    if total is None or not text.endswith("}\n\n"):
        return None
    return Draft(text, int(total.group(1)))


def _compile(folder: Path) -> None:
    """Compile the program that the folder asks for; the compiler writes there what it decides."""
    wanted = json.loads((folder / _WANTED).read_text())
    settle(wanted["topology"])
    import jax

    from jaxdistill.config.load import check
    from jaxdistill.parallel.mesh import make_mesh
    from jaxdistill.planning.programs import make_program

    jax.config.update("jax_enable_compilation_cache", False)
    devices = open_topology(wanted["topology"]).devices
    mesh = make_mesh(**wanted["mesh"], devices=devices)
    lowered = make_program(check(wanted["config"]), mesh, wanted["name"]).lower()
    options = {"xla_dump_to": str(folder), "xla_dump_hlo_as_text": True}
    try:
        lowered.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
        # Written whole or not at all: the other process reads it as soon as it is there.
        (folder / "refusing.txt").write_text(str(error))
        (folder / "refusing.txt").rename(folder / _REFUSED)


if __name__ == "__main__":
    _compile(Path(sys.argv[1]))
