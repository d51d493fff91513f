"""A teacher that is no model: which tenth of the picture holds most ink."""

import numpy as np

import jaxdistill as jd


class InkOptions(jd.Section):
    """How sure the function is of what it says."""

    sharpness: float = 1.0


def most_ink(examples, sharpness):
    """Tenth of the picture that holds most ink, read row by row."""
    pixels = np.asarray(examples["images"], np.float32).reshape(len(examples["images"]), -1)
    tenths = np.array_split(pixels, 10, axis=1)
    return sharpness * np.stack([tenth.mean(1) for tenth in tenths], 1)


def register():
    """Make it known to configs as `most_ink`."""
    jd.register_teacher("most_ink", most_ink, InkOptions)
