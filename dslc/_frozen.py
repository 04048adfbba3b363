"""`dataclass` for everything that `dslc check` makes: frozen to the type checker, quick to run.

A class that is frozen when it runs sets each field of each new instance by a call of
`object.__setattr__`, and two more methods are compiled for it at every start: together a fifth of a
check's time. Here `frozen=True` gives what else it stands for, a hash by the fields where there is
an `==` by them; that nobody assigns to a field is mypy's to see.

Used as `dataclasses.dataclass` is; a class and its base must take it from the same place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["dataclass"]

if TYPE_CHECKING:
    from dataclasses import dataclass
else:
    import dataclasses

    def dataclass(*, frozen: bool = False, eq: bool = True, **options: Any) -> Any:
        hashed = frozen and eq
        return dataclasses.dataclass(eq=eq, unsafe_hash=hashed, **options)
