"""A network for runs that take a fraction of a second."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from resnetlab.models.zoo import ARCHITECTURES, Architecture


@pytest.fixture(scope="module", autouse=True)
def tiny_network() -> Iterator[str]:
    """A network of a few thousand weights by the name "tiny"."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ARCHITECTURES, "tiny", Architecture("basic", (1, 1), width=4, stem="cifar", shortcut="A"))
        yield "tiny"
