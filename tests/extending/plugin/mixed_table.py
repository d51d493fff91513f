"""A kind of input that is no part of jaxdistill: rows of numbers and categories."""

import dataclasses
from collections import Counter
from typing import Annotated, Any

import numpy as np
from pydantic import Field

import jaxdistill as jd

UNKNOWN = 0


class TableOptions(jd.Section):
    """Options of `table`."""

    numbers: tuple[str, ...] = ()
    """Columns of numbers, standardized by the training split."""
    categories: tuple[str, ...] = ()
    """Columns of names, each a number of its own; rare and new ones share the number 0."""
    most: Annotated[int, Field(ge=2)] = 16
    """Numbers of a category, that of the unknown among them."""


@dataclasses.dataclass(frozen=True)
class Rows(jd.Arrays):
    """Numbers and categories of the examples, and what they were standardized by."""

    settings: dict[str, Any]

    def processor(self):
        return {"table": self.settings}


def columns(table, data):
    return (*data.inputs.numbers, *data.inputs.categories)


def number(table, name):
    try:
        values = np.array(table.columns[name], np.float64)
    except (TypeError, ValueError):
        values = np.array([np.nan])
    if not np.isfinite(values).all():
        raise jd.DataError(f"{table.source}: got no number in {name!r}, expected one in each row")
    return values


def read(tables, source):
    """Numbers standardized by the training split, and categories as ids and one by one."""
    options, train = source.config.inputs, tables["train"]
    moments = {}
    for name in options.numbers:
        values = number(train, name)
        moments[name] = (float(values.mean()), float(values.std()) or 1.0)
    known = {}
    for name in options.categories:
        common = Counter(map(str, train.columns[name])).most_common(options.most - 1)
        known[name] = {word: place + 1 for place, (word, _) in enumerate(sorted(common))}
    settings = {"moments": moments, "categories": known}
    inputs = {}
    for part, table in tables.items():
        numbers = np.zeros((len(table), len(moments)), np.float32)
        for place, (name, (mean, deviation)) in enumerate(moments.items()):
            numbers[:, place] = (number(table, name) - mean) / deviation
        ids = np.zeros((len(table), len(known)), np.int32)
        for place, (name, words) in enumerate(known.items()):
            ids[:, place] = [words.get(str(cell), UNKNOWN) for cell in table.columns[name]]
        one_hot = np.eye(options.most, dtype=np.float32)[ids].reshape(len(table), -1)
        features = np.concatenate([numbers, one_hot], axis=1)
        inputs[part] = Rows({"numbers": numbers, "categories": ids, "features": features}, settings)
    return jd.Found(inputs)


def sizes_of_config(config):
    """What the options say without data: a plan needs no more."""
    options = config.data.inputs
    numbers, categories = len(options.numbers), len(options.categories)
    features = numbers + categories * options.most
    return {"numbers": numbers, "categories": categories, "features": features}


def model_sizes(config, facts, origin):
    """What the mapping of a perceptron leaves to the data."""
    return {"num_features": facts.sizes["features"]}


def unknown_share(examined):
    """Warn where many categories of the held-out rows are not those of training."""
    ids = examined.dataset.validation.inputs.arrays["categories"]
    share = float((ids == UNKNOWN).mean()) if ids.size else 0.0
    level = "warning" if share > 0.1 else "ok"
    yield jd.Finding(level, "categories", f"{100 * share:.1f} % of the held-out ones are unknown")


def register():
    jd.register_modality(
        jd.Modality(
            name="table",
            plural="rows of a table",
            fields={
                "numbers": jd.Field("float32", ("numbers",)),
                "categories": jd.Field("int32", ("categories",)),
                "features": jd.Field("float32", ("features",)),
            },
            read=read,
            options=TableOptions,
            named=columns,
            read_as=("features",),
            sizes_of_config=sizes_of_config,
            model_sizes=model_sizes,
            checks=(unknown_share,),
        )
    )
