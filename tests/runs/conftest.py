"""Runs here train the tiny network."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module", autouse=True)
def with_tiny_network(tiny_network: str) -> str:
    return tiny_network
