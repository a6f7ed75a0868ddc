"""Dataclasses to JSON and back, by their annotations: the format of a checkpoint.

Packed arrays become base64: a running epoch holds thousands of numbers, and text is ten times slower.
"""

from __future__ import annotations

import base64
import dataclasses
import enum
import types
from array import array
from collections.abc import Sequence
from functools import lru_cache
from typing import TypeVar, Union, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")


def to_json(value: object) -> object:
    """Return a value of dataclasses, enums, arrays and plain numbers in types that ``json`` can write."""
    if isinstance(value, enum.Enum):
        return value.value
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, array):
        return {"typecode": value.typecode, "base64": base64.b64encode(value.tobytes()).decode()}
    if isinstance(value, dict):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(v) for v in value]
    if dataclasses.is_dataclass(value):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    raise TypeError(f"cannot be written as JSON: {type(value).__name__}")


def from_json(kind: type[T], value: object) -> T:
    """Return the value that `to_json` wrote; unknown fields are ignored, absent ones take their defaults.

    Raises:
        ValueError: The value is not of this kind.
    """
    return cast(T, _read(kind, value))


def _read(kind: object, value: object) -> object:
    origin = get_origin(kind)
    if origin is Union or origin is types.UnionType:
        return _read_union(get_args(kind), value)
    if kind is array:
        return _read_array(value)
    if origin in (list, tuple, Sequence):
        return _read_sequence(kind, value)
    if origin is dict:
        return {k: _read(get_args(kind)[1], v) for k, v in _mapping(value).items()}
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _read_dataclass(kind, value)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return kind(value)
    return _read_plain(kind, value)


def _read_union(kinds: tuple[object, ...], value: object) -> object:
    """Read the first kind that fits; None only where the union has it."""
    if value is None and type(None) in kinds:
        return None
    for kind in kinds:
        try:
            return _read(kind, value)
        except (ValueError, TypeError):
            continue
    raise ValueError(f"expected one of {kinds}, got {str(value)[:80]!r}")


def _read_array(value: object) -> array[int] | array[float]:
    stored = _mapping(value)
    values: array[int] | array[float] = array(str(stored.get("typecode")))
    values.frombytes(base64.b64decode(str(stored.get("base64")), validate=True))
    return values


def _read_sequence(kind: object, value: object) -> object:
    if not isinstance(value, list):
        raise ValueError(f"expected a list, got {str(value)[:80]!r}")
    kinds = get_args(kind)
    if get_origin(kind) is tuple and Ellipsis not in kinds:
        if len(kinds) != len(value):
            raise ValueError(f"expected {len(kinds)} items, got {len(value)}")
        return tuple(map(_read, kinds, value))
    items = [_read(kinds[0], item) for item in value]
    return items if get_origin(kind) is list else tuple(items)


def _read_dataclass(kind: type, value: object) -> object:
    stored = _mapping(value)
    hints = _hints(kind)
    known = {
        f.name: _read(hints[f.name], stored[f.name]) for f in dataclasses.fields(kind) if f.name in stored
    }
    try:
        return kind(**known)
    except TypeError as error:
        raise ValueError(str(error)) from None


def _read_plain(kind: object, value: object) -> object:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(kind, type) or type(value) is not kind:
        raise ValueError(f"expected {kind}, got {str(value)[:80]!r}")
    return value


def _mapping(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, got {str(value)[:80]!r}")
    return value


class _Array:
    """Replaces ``array`` in annotations: it cannot be subscripted at run time before Python 3.12."""

    def __class_getitem__(cls, item: object) -> type:
        return array


@lru_cache(maxsize=64)
def _hints(kind: type) -> dict[str, object]:
    return get_type_hints(kind, localns={"array": _Array})
