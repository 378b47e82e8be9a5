"""Settings of the whole process that a library must change for a moment: by one thread at a time, and restored."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

LOCKS: dict[int, Any] = {}  # by process: a forked one must not wait for a thread that it does not have


@contextmanager
def one_thread_at_a_time() -> Iterator[None]:
    """Let one thread at a time change settings of the process, such as matplotlib's. Also a decorator.

    Of two threads that change and restore them at once, one would restore what the other one has set.
    """
    with LOCKS.setdefault(os.getpid(), threading.RLock()):
        yield


@contextmanager
def warnings_ignored(message: str = "", category: type[Warning] = Warning) -> Iterator[None]:
    """Ignore warnings of a category whose text begins with the regular expression `message`."""
    with one_thread_at_a_time(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message, category)
        yield
