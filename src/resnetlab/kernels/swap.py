"""The base of all fast classes: a module whose class is swapped for a faster one stays the module that it was."""

from __future__ import annotations

import copy
import copyreg
import sys
from itertools import repeat
from operator import is_
from typing import Any, ClassVar, Self

from torch import nn

CALL = nn.Module.__call__


class Fast:
    """A sub-class of `plain` with another `forward`, and nothing else: an object can change between the two in place.

    A pickle holds a plain module, so that it can be read where this package is not installed; copies are as fast as
    their original.
    """

    plain: ClassVar[type[nn.Module]]
    originals: ClassVar[dict[str, object]]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "plain" in vars(cls):
            names = ("forward", "features", "_forward_impl")
            cls.originals = {name: unpatched(cls.plain, name) for name in names if hasattr(cls.plain, name)}
            cls.originals["__call__"] = CALL

    @classmethod
    def is_original(cls) -> bool:
        """True where no method of the plain class has been replaced, which its fast class would not call."""
        return all(map(is_, map(getattr, repeat(cls.plain), cls.originals), cls.originals.values()))

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        reduced = super().__reduce_ex__(max(2, int(protocol)))
        assert isinstance(reduced, tuple)
        state = reduced[2:]
        return copyreg._reconstructor, (self.plain, object, None), *state  # type: ignore[attr-defined]

    def __copy__(self) -> Self:
        other = self.__class__.__new__(self.__class__)
        other.__dict__.update(self.__dict__)
        return other

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        other = self.__class__.__new__(self.__class__)
        memo[id(self)] = other
        other.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return other


def unpatched(kind: type[nn.Module], name: str) -> object:
    """A method of a class, or None if it was replaced by code from another file."""
    method = getattr(kind, name)
    file = getattr(getattr(method, "__code__", None), "co_filename", None)
    files = {getattr(sys.modules[base.__module__], "__file__", None) for base in kind.__mro__[:-1]}
    return method if file in files else None


def is_fast(module: nn.Module) -> bool:
    """True for a module of exactly a fast class: `accelerate` has swapped it, and nobody has sub-classed it since."""
    return "plain" in vars(type(module)) and issubclass(type(module), Fast)
