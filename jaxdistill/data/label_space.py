"""What labels may be, and which output of the model a cell of the data is."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable

from jaxdistill.config.spelling import fold
from jaxdistill.data.label_cells import CellForm
from jaxdistill.data.label_names import as_number, is_integer
from jaxdistill.data.reading.table import Table
from jaxdistill.errors import DataError, did_you_mean


@dataclasses.dataclass(frozen=True)
class LabelSpace:
    """What labels may be.

    Attributes:
      count: classes, or 1 for regression.
      names: names of the classes in the order of the model's outputs, or None where the data has
        bare ids.
      source_names: names of the ids as the data counts them, where those may be others.
      outputs: the model's output of each id of the data; None where they are the same.
      by_name: whether whole numbers are names, as codes are, and no ids.
      form: how a row holds its labels.
      columns: columns that hold the labels.
      holds_ids: whether the rows hold ids, and not names.
    """

    count: int
    names: tuple[str, ...] | None
    source_names: tuple[str, ...] | None = None
    outputs: tuple[int, ...] | None = None
    by_name: bool = False
    form: CellForm = dataclasses.field(default_factory=CellForm)
    columns: tuple[str, ...] = ()
    holds_ids: bool = False


class UnknownLabelError(DataError):
    """A label that is none of those known."""


class Lookup:
    """Looks up the outputs of one table's cells."""

    def __init__(self, space: LabelSpace, table: Table) -> None:
        self._space, self._table = space, table
        names, source = space.names or (), space.source_names or ()
        outputs = space.outputs or tuple(range(space.count))
        self._outputs = outputs
        self._known: dict[Hashable, int] = {}
        # What is exact counts before what is alike, and the model's names before the data's.
        for key in (lambda name: name, fold, as_number):
            for group, places in ((names, range(space.count)), (source, outputs)):
                keys = [key(name) for name in group]
                if len(set(keys)) == len(keys) == space.count:
                    for one, place in zip(keys, places, strict=True):
                        self._known.setdefault(one, place)
        self._known.pop(None, None)

    def of(self, cell: int | float | str, row: int) -> int:
        space = self._space
        if not space.by_name and is_integer(cell):
            index = int(float(cell))
            if 0 <= index < space.count:
                return self._outputs[index]
            raise UnknownLabelError(
                f"{self._table.at(row)}: got label {index}, expected 0 to {space.count - 1}"
                f"{self._way_out(index)}"
            )
        name = str(cell)
        for key in (name, fold(name), as_number(name) if space.by_name else None):
            if key is not None and key in self._known:
                return self._known[key]
        names = list(space.names or range(space.count))
        raise UnknownLabelError(
            f"{self._table.at(row)}: got label {name!r}, expected one of {names[:20]}"
            f"{self._way_out(name)}.{did_you_mean(name, [str(known) for known in names])}"
        )

    def _way_out(self, cell: int | str) -> str:
        space = self._space
        unlabelled = "; -1 marks rows without labels, use another split or drop them"
        if isinstance(cell, int):
            codes = self._codes()
            if len(codes) == space.count and codes != [-1]:
                return (
                    "; if the data's labels are codes, give them in the order of the model's "
                    f"outputs: data.labels={codes}"
                )
            return unlabelled if cell == -1 else ""
        if as_number(cell) is None:
            return ""
        if not is_integer(cell):
            return "; set task=regression if the labels are scores"
        if cell == "-1":
            return unlabelled
        return "; to keep classes that the training data lacks, list all names as data.labels"

    def _codes(self) -> list[int]:
        """Return the whole numbers of this table, if it holds nothing else."""
        values = self._table.columns[self._space.columns[0]] if self._space.columns else ()
        cells = {value.strip() if isinstance(value, str) else value for value in values}
        if not all(is_integer(str(cell)) for cell in cells):
            return []
        return sorted({int(float(cell)) for cell in cells})
