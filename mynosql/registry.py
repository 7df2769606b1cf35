"""The classes of the application that records may hold: how each is taken apart and put together.

Filled by register_type at import time of the application, read by codec.py. The one piece of state of the values'
floor: it belongs to the program, not to a database. Pure otherwise.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable
from typing import Any, TypeVar

from mynosql.errors import OptionInvalid
from mynosql.scalars import FLAT_TYPES, SCALAR_PACKERS

T = TypeVar("T")

CONTAINER_TYPES = frozenset((list, tuple, set, frozenset, dict))
NAME_CHARACTERS_MAX = 255
"""The name stands in every record that holds an instance."""


@dataclasses.dataclass(frozen=True, slots=True)
class Registered:
    """One class: pack makes a storable value of an instance, unpack the reverse."""

    cls: type[Any]
    name: str
    pack: Callable[[Any], Any]
    unpack: Callable[[Any], Any]
    is_enum: bool = False
    """Its members are single values (of str or int), not containers."""


_by_class: dict[type[Any], Registered] = {}
_by_name: dict[str, Registered] = {}

find_registered = _by_class.get
"""The registration of exactly this class, or None."""
find_registered_name = _by_name.get
"""The registration of the class that is stored under this name, or None."""


def register_type(
    cls: type[T], *, name: str | None = None, pack: Callable[[T], Any] | None = None,
    unpack: Callable[[Any], T] | None = None,
) -> type[T]:
    """Let records hold instances of exactly this class; returns it, so it serves as a decorator.

    An Enum is stored by member name (a Flag by value), a dataclass by its fields and rebuilt through its
    constructor. Any other class needs `pack` (instance to storable value) and `unpack` (the reverse). `name` is what
    the bytes say, on every node: by default the class's qualified name. Register before reading, in each program.
    Raises OptionInvalid.
    """
    if not isinstance(cls, type):
        raise OptionInvalid(f"register_type takes a class, not {cls!r}")
    if cls in FLAT_TYPES | SCALAR_PACKERS.keys() | CONTAINER_TYPES:
        raise OptionInvalid(f"{cls.__name__} is stored as it is, without registering")
    if (pack is None) != (unpack is None):
        raise OptionInvalid(f"register_type({cls.__name__}) needs both pack and unpack, or neither")
    found = _registration(cls, cls.__qualname__ if name is None else name, pack, unpack)
    other = _by_name.get(found.name)
    if other is not None and not _is_same_class(other.cls, cls):
        raise OptionInvalid(
            f"the name {found.name!r} is registered for {other.cls.__module__}.{other.cls.__qualname__}; "
            f"give register_type({cls.__name__}, name=...) another one"
        )
    _by_name[found.name] = found
    _by_class[cls] = found
    return cls


def _registration(
    cls: type[Any], name: str, pack: Callable[[Any], Any] | None, unpack: Callable[[Any], Any] | None
) -> Registered:
    if type(name) is not str or not name or len(name) > NAME_CHARACTERS_MAX:
        raise OptionInvalid(
            f"register_type({cls.__name__}): name is a str of 1 to {NAME_CHARACTERS_MAX} characters, not {name!r}"
        )
    if pack is not None and unpack is not None:
        return Registered(cls, name, pack, unpack)
    if issubclass(cls, enum.Flag):
        return Registered(cls, name, lambda member: member.value, cls, is_enum=True)
    if issubclass(cls, enum.Enum):
        return Registered(cls, name, lambda member: member.name, cls.__getitem__, is_enum=True)
    if dataclasses.is_dataclass(cls):
        return _dataclass_registration(cls, name)
    raise OptionInvalid(
        f"{cls.__name__} is neither an Enum nor a dataclass: give register_type({cls.__name__}, pack=..., unpack=...)"
    )


def _dataclass_registration(cls: type[Any], name: str) -> Registered:
    fields = dataclasses.fields(cls)
    names = [field.name for field in fields]
    later = [field.name for field in fields if not field.init]
    variables = getattr(cls, "__dataclass_fields__", {}).keys() - set(names)
    if any(str(getattr(cls.__dataclass_fields__[item], "_field_type", "")) == "_FIELD_INITVAR" for item in variables):
        raise OptionInvalid(
            f"{cls.__name__} has InitVar arguments, which no field keeps: give "
            f"register_type({cls.__name__}, pack=..., unpack=...)"
        )

    def pack(value: Any) -> dict[str, Any]:
        return {item: getattr(value, item) for item in names}

    def unpack(values: dict[str, Any]) -> Any:
        outside = {item: values.pop(item) for item in later if item in values}
        built = cls(**values)
        for item, value in outside.items():
            object.__setattr__(built, item, value)  # frozen dataclasses refuse setattr
        return built

    return Registered(cls, name, pack, unpack)


def _is_same_class(one: type[Any], other: type[Any]) -> bool:
    """The same, or the same one defined again, as a notebook or a reload does."""
    return one is other or (one.__module__, one.__qualname__) == (other.__module__, other.__qualname__)
