"""Decode images in a pool of threads and compute predictions in one thread, in batches of whatever is waiting."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np

from resnetlab.errors import LabError, NonFinite
from resnetlab.inference.predict import Classifier
from resnetlab.inference.serve.settings import cpus

Result = TypeVar("Result")


class Full(Exception):
    """As many images are waiting as are allowed."""


@dataclass(frozen=True)
class Answer:
    """The probabilities of one image, (classes,) in float64, and the seconds that it took to get them."""

    probabilities: np.ndarray
    decode_seconds: float
    wait_seconds: float
    compute_seconds: float


@dataclass(eq=False)
class Job(Generic[Result]):
    """One image on its way. `explain` computes something else than probabilities from the pixels."""

    name: str
    content: bytes
    future: asyncio.Future[Result | LabError]
    explain: Callable[[Classifier, np.ndarray], Result] | None = None
    pixels: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint8))
    decode_seconds: float = 0.0
    decoded_at: float = 0.0


class Engine:
    """Classifiers by name, and the threads that use them.

    A batch is everything that arrived while the batch before it was computed, up to `max_batch` images. So a single
    request never waits for others, and many requests share the network's fixed cost.

    >>> Engine({}, max_images=2, max_batch=1).waiting
    0
    """

    def __init__(
        self,
        classifiers: Mapping[str, Classifier],
        *,
        max_images: int,
        max_batch: int,
        on_batch: Callable[[str, int, float], None] = lambda *_: None,
    ) -> None:
        """Prepare the threads; `start` starts them. The computing thread calls `on_batch(model, images, seconds)`."""
        self.classifiers = dict(classifiers)
        self.max_images, self.max_batch, self.on_batch = max_images, max_batch, on_batch
        self.waiting = 0  # changed by the event loop only
        self.decoders = ThreadPoolExecutor(cpus(), "decode")
        self.decoded: queue.SimpleQueue[Job[Any] | None] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._compute_forever, name="compute", daemon=True)

    def start(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.thread.start()

    def stop(self) -> None:
        """End the threads once all that was accepted is answered. It blocks until then."""
        self.decoders.shutdown()
        self.decoded.put(None)
        self.thread.join()

    async def predict(self, name: str, contents: Sequence[bytes]) -> list[Answer | LabError]:
        """Predict images from their files' bytes, in order. An image that cannot be read gets its error.

        Raises Full, before anything is decoded, if there is no room for all of them.
        """
        futures: list[asyncio.Future[Answer | LabError]] = self._accept(name, contents)
        return await asyncio.gather(*futures)

    async def explain(self, name: str, content: bytes, explain: Callable[[Classifier, np.ndarray], Result]) -> Result:
        """Call `explain` in the computing thread with a classifier and the pixels of an image.

        Raises Full, BadInput for an image that cannot be read, and what `explain` raises as LabError.
        """
        futures: list[asyncio.Future[Result | LabError]] = self._accept(name, [content], explain)
        result = await futures[0]
        if isinstance(result, LabError):
            raise result
        return result

    def _accept(
        self,
        name: str,
        contents: Sequence[bytes],
        explain: Callable[[Classifier, np.ndarray], Result] | None = None,
    ) -> list[asyncio.Future[Any]]:
        if self.waiting + len(contents) > self.max_images:
            raise Full
        futures = []
        for content in contents:
            future: asyncio.Future[Any] = self.loop.create_future()
            future.add_done_callback(self._leave)
            self.waiting += 1
            self.decoders.submit(self._decode, Job(name, content, future, explain))
            futures.append(future)
        return futures

    def _leave(self, _future: asyncio.Future[Any]) -> None:
        self.waiting -= 1

    def _decode(self, job: Job[Any]) -> None:
        began = time.perf_counter()
        try:
            job.pixels = self.classifiers[job.name].pixels(job.content)
        except Exception as error:
            self._deliver([(job, as_lab_error(error))])
            return
        job.content = b""
        job.decoded_at = time.perf_counter()
        job.decode_seconds = job.decoded_at - began
        self.decoded.put(job)

    def _compute_forever(self) -> None:
        while (job := self.decoded.get()) is not None:
            batch, is_last = [job], False
            while len(batch) < self.max_batch and not self.decoded.empty():
                following = self.decoded.get()
                if following is None:
                    is_last = True
                    break
                batch.append(following)
            for name in dict.fromkeys(job.name for job in batch):
                mine = [job for job in batch if job.name == name]
                self._compute(name, [job for job in mine if job.explain is None])
                for job in mine:
                    if job.explain is not None:
                        self._explain(job)
            if is_last:
                return

    def _compute(self, name: str, jobs: Sequence[Job[Any]]) -> None:
        """Compute one batch. If its output is not finite, compute each image alone, so that only the bad ones fail."""
        if not jobs:
            return
        began = time.perf_counter()
        try:
            probabilities = self.classifiers[name].probabilities(np.stack([job.pixels for job in jobs])).numpy()
            seconds = time.perf_counter() - began
            self.on_batch(name, len(jobs), seconds)  # if it fails (a full disk), clients get an answer and we go on
        except NonFinite as error:
            if len(jobs) == 1:
                self._deliver([(jobs[0], error)])
            else:
                for job in jobs:
                    self._compute(name, [job])
            return
        except Exception as error:
            self._deliver([(job, as_lab_error(error)) for job in jobs])
            return
        answers = zip(jobs, probabilities, strict=True)
        self._deliver([(job, Answer(row, job.decode_seconds, began - job.decoded_at, seconds)) for job, row in answers])

    def _explain(self, job: Job[Any]) -> None:
        assert job.explain is not None
        try:
            result = job.explain(self.classifiers[job.name], job.pixels)
        except Exception as error:
            result = as_lab_error(error)
        self._deliver([(job, result)])

    def _deliver(self, results: Sequence[tuple[Job[Any], Any]]) -> None:
        """Hand results to the event loop; it may be closed already if it did not wait for them."""
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(resolve, results)


def resolve(results: Sequence[tuple[Job[Any], Any]]) -> None:
    for job, result in results:
        if not job.future.done():  # its request may have been cancelled
            job.future.set_result(result)


def as_lab_error(error: Exception) -> LabError:
    """Return an error of the user as it is, and one of ours as an internal error, with its own traceback as cause."""
    if isinstance(error, LabError):
        return error
    internal = LabError(f"internal error: {type(error).__name__}: {error}")
    internal.__cause__ = error
    return internal
