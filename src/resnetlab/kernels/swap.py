"""The base of all fast classes: a module whose class is swapped for a faster one stays the module that it was."""

from __future__ import annotations

import copy
import copyreg
from typing import Any, ClassVar, Self

from torch import nn


class Fast:
    """A sub-class of `plain` with another `forward`, and nothing else: an object can change between the two in place.

    A pickle holds a plain module, so that it can be read where this package is not installed; a deep copy is as fast as
    its original.
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
