"""A data source that is no part of jaxdistill: points of two classes, and sentences."""

import jaxdistill as jd


def points():
    """Two clouds of points on a plane, one for each class."""
    import numpy as np

    draw = np.random.default_rng(0)

    def part(count):
        labels = np.arange(count) % 2
        return {"features": draw.normal(size=(count, 2)) + 4.0 * labels[:, None], "label": labels}

    return {"train": part(160), "validation": part(64), "test": part(64)}


def counting():
    """Sentences that count, for language models."""
    numbers = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    return {"train": {"text": [" ".join(numbers[i % 7 :]) + "." for i in range(300)]}}


def register():
    known = {"modality": "features", "sizes": {"features": 2}}
    jd.register_source(jd.Source("toy_points", points, ("left", "right"), **known))
    jd.register_source(jd.Source("toy_counting", counting))
