"""`dataclass` for all of dslc: frozen to the type checker, quick to make.

A class that is frozen when it runs sets each field of each new instance by a call of
`object.__setattr__`, and for each class the standard decorator compiles the text of up to six
methods at every start: together a third of a check's time, a twentieth of a small build's. Here
`frozen=True` gives what else it stands for, a hash by the fields where there is an `==` by them;
that nobody assigns to a field is mypy's to see. Only `__init__` is compiled; the other methods are
closures that do the same.

Used as `dataclasses.dataclass` is, without `order` and `unsafe_hash`; a class and its base must
take it from the same place. What is a key of dicts over and over is `HashedOnce`, too.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

__all__ = ["HashedOnce", "dataclass"]


class HashedOnce:
    """Base of frozen dataclasses that keep their hash."""

    __slots__ = ("_hash",)
    _hash: int

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        """Without the hash: another process hashes strings otherwise."""
        names = (field.name for field in dataclasses.fields(self))  # type: ignore[arg-type]
        return type(self), tuple(getattr(self, name) for name in names)


if TYPE_CHECKING:
    from dataclasses import dataclass
else:
    from operator import attrgetter
    from reprlib import recursive_repr

    def dataclass(
        *, frozen: bool = False, eq: bool = True, repr: bool = True, **options: Any
    ) -> Any:
        def decorate(cls: type) -> type:
            cls.__doc__ = cls.__doc__ or cls.__name__  # else its signature, which takes long
            made = dataclasses.dataclass(repr=False, eq=False, **options)(cls)
            own = vars(made)
            if repr and "__repr__" not in own:
                made.__repr__ = _repr
            if eq:
                _compare_by_fields(made, own, hashed=frozen)
            return made

        return decorate

    def _compare_by_fields(cls: type, own: Any, *, hashed: bool) -> None:
        names = [field.name for field in dataclasses.fields(cls) if field.compare]
        # The getter gives a tuple for two names and more, which is what is compared and hashed.
        values = attrgetter(*names) if len(names) > 1 else _few(names)

        def equal(self: Any, other: object) -> bool:
            if other.__class__ is not self.__class__:
                return NotImplemented
            return values(self) == values(other)

        if "__eq__" not in own:
            cls.__eq__ = equal
        if "__hash__" not in own:
            once = issubclass(cls, HashedOnce)
            cls.__hash__ = _hash_of(values, once=once) if hashed else None

    def _hash_of(values: Any, *, once: bool) -> Any:
        if not once:
            return lambda self: hash(values(self))

        def hash_once(self: Any) -> int:
            try:
                return self._hash
            except AttributeError:
                self._hash = hash(values(self))
                return self._hash

        return hash_once

    def _few(names: list[str]) -> Any:
        if not names:
            return lambda self: ()
        get = attrgetter(names[0])
        return lambda self: (get(self),)

    @recursive_repr()
    def _repr(self: Any) -> str:
        shown = (
            f"{field.name}={getattr(self, field.name)!r}"
            for field in dataclasses.fields(self)
            if field.repr
        )
        return f"{self.__class__.__qualname__}({', '.join(shown)})"
