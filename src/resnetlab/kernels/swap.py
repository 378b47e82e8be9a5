"""The base class of all fast classes, which are swapped in for a module's own class."""

from __future__ import annotations

import copy
import copyreg
from typing import Any, ClassVar, Self

from torch import nn


class Fast:
    """A sub-class of `plain` that only has another `forward`, so that an object can change between the two in place.

    A pickle contains the plain class, so that it can be read without this package. A deep copy keeps the fast class.
    """

    plain: ClassVar[type[nn.Module]]

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        reduced = super().__reduce_ex__(max(2, int(protocol)))
        assert isinstance(reduced, tuple)
        state = reduced[2:]
        return copyreg._reconstructor, (self.plain, object, None), *state  # type: ignore[attr-defined]

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        other = self.__class__.__new__(self.__class__)
        memo[id(self)] = other
        other.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return other
