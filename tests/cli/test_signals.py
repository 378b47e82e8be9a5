"""Signals are a request to stop while a run watches for it, and otherwise the end of the program."""

from __future__ import annotations

import signal

import pytest

from resnetlab.cli.signals import SIGNALS, leave_on_signals, stop_on_signals


def test_signals_are_requests_only_while_a_run_watches() -> None:
    with stop_on_signals() as stop:
        with stop.watched():
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)  # the echo of the same request
        assert stop.reason == "SIGTERM"
        with pytest.raises(KeyboardInterrupt, match="stopped by SIGUSR1"):
            signal.raise_signal(signal.SIGUSR1)


def test_the_handlers_from_before_are_installed_again() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with stop_on_signals():
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_signal_after_the_last_check_of_a_run_does_not_stop_it() -> None:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        leave_on_signals()
        with stop_on_signals() as stop:
            stop.watch()
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        assert stop.reason == "SIGTERM"
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
