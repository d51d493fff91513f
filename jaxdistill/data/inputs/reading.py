"""What a kind of input is read with, and what reading it gives."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxdistill.config.schema import DataConfig
from jaxdistill.data.inputs.inputs import Inputs
from jaxdistill.data.reading.preprocessing import Preprocessing
from jaxdistill.data.reading.table import Remark


@dataclasses.dataclass(frozen=True)
class Source:
    """What decides how columns become inputs.

    Attributes:
      columns: the columns that hold an example, as they were recognized.
      config: the section `data`; its field `inputs` has the options of the kind of input.
      tokenizer: Hugging Face folder of the model that reads texts.
      row_limits: the longest row that each model has positions for, by who it is.
      preprocessing: what the model that reads images expects; what `data` says goes before it.
      channels: number of channels that the models read, 1 or 3; None: as the data has them.
      cache: where a tokenizer that is trained is kept, and where `data.cache` is true, tokens.
      remarks: what was noticed while the models were asked.
    """

    columns: tuple[str, ...]
    config: DataConfig
    tokenizer: Path | None = None
    row_limits: Mapping[str, int] = dataclasses.field(default_factory=dict)
    preprocessing: Preprocessing | None = None
    channels: int | None = None
    cache: Path | None = None
    remarks: tuple[Remark, ...] = ()


@dataclasses.dataclass(frozen=True)
class Found:
    """Inputs of every split.

    Attributes:
      inputs: by split: `train`, `validation` and, where there is one, `test`.
      remarks: what was noticed while reading, for the doctor to say.
      tokenizer: folder of the tokenizer that read the texts, None without texts.
      vocabulary: number of the tokenizer's tokens.
      labels: labels of every split, where inputs bring labels.
      notes: counts worth telling, by `split.name`, where labels are brought, too.
    """

    inputs: Mapping[str, Inputs]
    remarks: tuple[Remark, ...] = ()
    tokenizer: Path | None = None
    vocabulary: int | None = None
    labels: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    notes: Mapping[str, int] = dataclasses.field(default_factory=dict)
