"""Images of one size, and their random shift in training."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Self

import numpy as np

from jaxdistill.config.schema import DataConfig
from jaxdistill.data.inputs.inputs import Batch, Chance, Inputs
from jaxdistill.data.inputs.reading import Found, Source
from jaxdistill.data.reading.images import normalization, shift_images
from jaxdistill.data.reading.images import read_images as read_pixels
from jaxdistill.data.reading.preprocessing import Preprocessing, processor_config, with_options
from jaxdistill.data.reading.table import Table
from jaxdistill.types import Json


@dataclasses.dataclass(frozen=True)
class Images(Inputs):
    """Images that are preprocessed.

    Attributes:
      images: pixels after normalization, float32 [N, H, W, C].
      preprocessing: what was done to them.
    """

    images: np.ndarray
    preprocessing: Preprocessing

    def __len__(self) -> int:
        return len(self.images)

    @functools.cached_property
    def fill(self) -> np.ndarray:
        """The value of a black pixel after normalization, float32 [C]."""
        mean, std = normalization(self.preprocessing, self.images.shape[-1])
        return ((0.0 - mean) / std).astype(np.float32)

    def take(self, rows: np.ndarray) -> Self:
        return dataclasses.replace(self, images=self.images[rows])

    def batch(self, index: np.ndarray, length: int) -> Batch:
        """Return `images`, float32 [B, H, W, C]."""
        return {"images": self.images[index]}

    def augment(self, batch: Batch, config: DataConfig, chance: Chance) -> Batch:
        """Move every image by up to `data.shift` pixels each way."""
        if not config.shift:
            return batch
        down, right = chance.integers(2, 2 * config.shift + 1) - config.shift
        moved = shift_images(batch["images"], down, right, config.shift, self.fill)
        return {**batch, "images": moved}

    def example_bytes(self) -> Iterator[bytes]:
        return (image.tobytes() for image in self.images)

    def hashed(self, *, subset: bool) -> tuple[np.ndarray, ...]:
        return (self.images,)

    def row_shape(self, length: int) -> tuple[int, ...]:
        return self.images.shape[1:]

    def processor(self) -> Json:
        return processor_config(self.preprocessing, *self.images.shape[1:])


def read_images(tables: Mapping[str, Table], source: Source) -> Found:
    """Read and preprocess the images of every split.

    Raises:
      DataError: what `data.reading.images.read_images` refuses.
    """
    chosen = with_options(source.preprocessing or Preprocessing(), source.config)
    pixels, remarks = read_pixels(
        tables,
        source.columns[0],
        chosen,
        channels=source.channels,
        white=source.config.image_max,
    )
    inputs = {part: Images(images, chosen) for part, images in pixels.items()}
    return Found(inputs, remarks=(*source.remarks, *remarks))
