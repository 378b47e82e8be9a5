"""Run the server: one process, or several workers that share the port."""

from __future__ import annotations

import functools
import io
import logging
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TextIO

import numpy as np
import uvicorn
from PIL import Image
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from resnetlab.errors import BadInput, LabError, printable
from resnetlab.inference.predict import Classifier, load
from resnetlab.inference.serve.application import application, require_thresholds
from resnetlab.inference.serve.connection import Connection
from resnetlab.inference.serve.gate import ACCESS, LOGGER, Gate
from resnetlab.inference.serve.metrics import FOLDER
from resnetlab.inference.serve.settings import Settings, cpus

BACKLOG = 2048  # connections that wait to be accepted
START_SECONDS = 60  # to import torch on a busy machine, for a worker that SIGHUP starts; uvicorn waits 5


@dataclass(frozen=True)
class Models:
    """The sources of the models of a server, by name, and the device and precision to compute with."""

    sources: Mapping[str, str]
    device: str = "auto"
    precision: str = "auto"

    def load(self) -> dict[str, Classifier]:
        """Load all models, and compute one image with each, so that the first request is not slow. Raises BadInput."""
        classifiers = {name: load(source, self.device, self.precision) for name, source in self.sources.items()}
        for classifier in classifiers.values():
            warm_up(classifier)
        return classifiers


def warm_up(classifier: Classifier) -> None:
    """Decode and compute one image: the first takes many times as long as the others."""
    preprocessing = classifier.model.preprocessing
    size, channels = preprocessing.resize_to, preprocessing.channels
    pixels = np.zeros((size, size, channels), np.uint8)
    if channels in (1, 3):
        file = io.BytesIO()
        Image.fromarray(pixels.squeeze()).save(file, "JPEG")
        pixels = classifier.pixels(file.getvalue())
    classifier.probabilities(pixels[None])


def serve(
    models: Models,
    settings: Settings,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    workers: int = 1,
    on_ready: Callable[[str], None] = lambda _: None,
) -> None:
    """Serve until SIGINT, SIGTERM or, as one process, SIGHUP; then answer what was accepted.

    `on_ready` is called with the server's address. It installs handlers for these signals, so it must be called in the
    main thread. With several `workers`, each is a process with its own copy of the models; one that ends is replaced.

    Raises BadInput for models that cannot be loaded and an address that cannot be used.
    """
    classifiers = models.load()
    require_thresholds(classifiers, settings.reject)
    with listening(host, port) as sock:
        address = url(sock)
        if workers == 1:
            gate = application(classifiers, settings)
            server = uvicorn.Server(configuration(lambda: gate))
            for number in stop_signals():
                signal.signal(number, server.handle_exit)  # until uvicorn sets it, and when it raises it again
            log_to_stdout(settings)
            on_ready(address)
            server.run([sock])
            return
        del classifiers
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cpus() // workers)))
        with tempfile.TemporaryDirectory(prefix="resnetlab-metrics-") as folder:
            os.environ[FOLDER] = folder
            supervisor = Supervisor(configuration(functools.partial(start_worker, models, settings), workers), [sock])
            on_ready(address)
            supervisor.run()
            if any(worker.exitcode == STARTUP_FAILURE for worker in supervisor.processes):
                raise BadInput("a worker cannot start; its error is above")


def stop_signals() -> list[signal.Signals]:
    """The signals that stop the server: SIGHUP, of a terminal that is closed, unless nohup has it ignored."""
    hang_up = getattr(signal, "SIGHUP", None)  # Windows has none
    if hang_up is None or signal.getsignal(hang_up) == signal.SIG_IGN:
        return [signal.SIGINT, signal.SIGTERM]
    return [signal.SIGINT, signal.SIGTERM, hang_up]


def configuration(factory: Callable[[], Gate], workers: int = 1) -> uvicorn.Config:
    return uvicorn.Config(
        factory,
        factory=True,
        http=Connection,
        ws="none",
        lifespan="on",
        workers=workers,
        timeout_worker_healthcheck=START_SECONDS,
        backlog=BACKLOG,
        log_config=None,
        log_level="warning",
        access_log=False,  # ours has more in it
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=None,  # what was accepted is answered: its number, body and reader have limits
    )


class Supervisor(Multiprocess):
    """uvicorn's supervisor of workers, but it replaces a worker that has ended at once.

    uvicorn's own waits for a sign of life of each worker in turn, up to `timeout_worker_healthcheck`. If a worker is
    killed in that moment, or has just been started, the supervisor does nothing else meanwhile: it does not even stop.
    """

    def terminate_all(self) -> None:
        for sock in self.sockets:
            sock.close()  # otherwise it would let clients connect that no worker accepts any more
        super().terminate_all()

    def keep_subprocess_alive(self) -> None:
        for index, worker in enumerate(self.processes):
            if self.should_exit.is_set() or worker.process.is_alive():
                continue
            worker.kill()  # it has ended: this closes its pipe
            worker.join()
            if worker.exitcode == STARTUP_FAILURE:
                self.should_exit.set()
                return
            from prometheus_client import multiprocess

            LOGGER.warning("worker %s ended and was replaced", worker.pid)
            multiprocess.mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]  # removes its gauges
            self.processes[index] = type(worker)(self.config, self.sockets)
            self.processes[index].start()


def start_worker(models: Models, settings: Settings) -> Gate:
    """Return the application of a worker, in its own process."""
    from resnetlab.data.decode import silence_decoders

    log_to_stderr()
    log_to_stdout(settings)
    silence_decoders()
    threading.Thread(target=stop_with_parent, daemon=True).start()
    try:
        return application(models.load(), settings)
    except LabError as error:
        print(f"resnetlab: {printable(error)}", file=sys.stderr)
        sys.exit(STARTUP_FAILURE)


def stop_with_parent() -> None:
    """Stop this worker in good order when the process that started it is gone, however that ended."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


class AccessLog(logging.StreamHandler[TextIO]):
    """The access log on stdout. A full disk or a reader that went away is one warning, not a traceback per request."""

    has_failed = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002 - logging calls it so
        """Warn, the first time."""
        if not self.has_failed:
            self.has_failed = True
            LOGGER.warning("the access log cannot be written: %s", sys.exc_info()[1])


def log_to_stdout(settings: Settings) -> None:
    """Write the access log to stdout, one JSON object a line."""
    handler = AccessLog(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    ACCESS.handlers[:] = [handler]
    ACCESS.propagate = False
    ACCESS.setLevel(logging.INFO if settings.access_log else logging.CRITICAL)
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # the client is told what is wrong with its form


def log_to_stderr() -> None:
    logging.basicConfig(format="%(message)s", level=logging.WARNING)


def listening(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to the address. Raises BadInput if that is not possible."""
    try:
        info = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(info[4][:2], family=info[0], backlog=BACKLOG)
    except (OSError, UnicodeError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadInput(
            f"cannot serve at {printable(host)} port {port}: {reason}; give another --host or --port"
        ) from error


def url(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
