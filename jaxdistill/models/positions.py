"""How many tokens a row may have, read from a `config.json` or a mapping alone."""

from __future__ import annotations

from jaxdistill.types import Json

FIELDS = ("max_position_embeddings", "n_positions")
# Their tables begin with one row for padding and those up to its id, which no token takes.
_BEHIND_PADDING = {"roberta": 1, "xlm-roberta": 1}
_RELATIVE = ("t5",)


def row_limit(family: str | None, fields: Json) -> int | None:
    """Return the longest row that a model has positions for, or None where nothing limits it.

    Args:
      family: name of the family, or `model_type`.
      fields: fields of the model's config: a `config.json`, or `vars` of a config.
    """
    counts = [fields[name] for name in FIELDS if isinstance(fields.get(name), int)]
    if not counts or family in _RELATIVE:
        return None
    if family not in _BEHIND_PADDING:
        return counts[0]
    padding = fields.get("pad_token_id", _BEHIND_PADDING[family])
    return counts[0] - (padding or 0) - 1


def table_size(family: str | None, rows: int, fields: Json) -> int:
    """Return how many positions a model needs for rows of that length; `row_limit` the other way.

    Args:
      family: name of the family.
      rows: tokens in the longest row.
      fields: known fields of the model's config, of which `pad_token_id` counts.
    """
    if family not in _BEHIND_PADDING:
        return rows
    return rows + (fields.get("pad_token_id", _BEHIND_PADDING[family]) or 0) + 1
