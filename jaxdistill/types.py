"""Names for types that Python cannot write more closely; they cost no import of jax or numpy."""

from typing import Any, TypeAlias

Tree: TypeAlias = Any
"""A pytree of arrays, of their shapes, or of one other thing for each array."""

Json: TypeAlias = dict[str, Any]
"""Values of a JSON or YAML file by key."""

Annotation: TypeAlias = Any
"""A type as annotations write it: a class, a union, a literal."""
