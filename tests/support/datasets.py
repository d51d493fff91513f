"""Data sets from configurations of `data` alone."""

from jaxdistill.config.schema import DataConfig
from jaxdistill.data.dataset import prepare

LINES = [
    f"{'good' if i % 3 else 'bad'} film {'one ' * (i % 7)}\t{int(i % 3 > 0)}" for i in range(60)
]
TSV = "\n".join(["sentence\tlabel", *LINES]) + "\n"


def load(folder=None, *, task="classification", labels=None, num_labels=None, **values):
    """Return what the options make of the data."""
    cache = values.pop("cache_dir", None)
    return prepare(
        DataConfig(**values),
        task=task,
        tokenizer_folder=folder,
        labels=labels,
        num_labels=num_labels,
        cache_dir=cache,
    )
