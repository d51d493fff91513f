"""Tables of labels, and what becomes of labels alone."""

from jaxdistill.data.labels import encode_labels, label_space
from jaxdistill.data.reading.table import Table


def table(names=None, **columns) -> Table:
    """Return a table of a file of those columns."""
    return Table(columns, "rows.tsv", names=names or {})


def encode(values, *, task="classification", names=None, rows=None, **options):
    """Find the labels of some values as training data, and encode them (or other rows)."""
    found = table(label=values, names={"label": names} if names else None)
    options = {"labels": None, "num_labels": None, **options}
    space = label_space(found, ["label"], task=task, **options)
    rows = found if rows is None else table(label=rows)
    return encode_labels(rows, ["label"], space, task=task).tolist(), space
