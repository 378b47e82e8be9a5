"""The web application: its routes, from the request to the answer."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import logging
import math
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from python_multipart.exceptions import FormParserError
from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from resnetlab import __version__
from resnetlab.data.limits import TooManyPixels
from resnetlab.errors import BadInput, LabError, printable, unknown
from resnetlab.inference.explain import grad_cam_map
from resnetlab.inference.predict import Classifier
from resnetlab.inference.serve.engine import Answer, Engine, Full
from resnetlab.inference.serve.gate import Gate, error
from resnetlab.inference.serve.metrics import Metrics
from resnetlab.inference.serve.openapi import PARAMETERS, openapi
from resnetlab.inference.serve.settings import MB, Settings

STATIC = Path(__file__).parent / "static"
LOGGER = logging.getLogger("resnetlab.serve")
TOP_K = 5
PHRASES = ("Not Found", "Method Not Allowed")  # of Starlette, where no route fits
CHUNK = 1 << 20  # bytes of a body that are parsed before other requests get their turn


@dataclass(frozen=True)
class Upload:
    """An image of a request: the name of its file, if there is one, and its bytes."""

    file: str
    content: bytes


class FormParser(MultiPartParser):
    """Starlette's parser, which also notes whether the form has its last boundary: without it, images are missing."""

    is_complete = False

    def on_end(self) -> None:
        self.is_complete = True


class Server:
    """The handlers, with what they share."""

    def __init__(self, models: Mapping[str, Classifier], settings: Settings) -> None:
        self.models, self.settings, self.metrics = dict(models), settings, Metrics()
        self.engine = Engine(
            models, max_images=settings.max_images, max_batch=settings.max_batch, on_batch=self.metrics.on_batch
        )
        self.body_bytes = 0  # of the requests that are being received or decoded
        self.gate = Gate(self._routes(), settings, self.metrics)

    def _routes(self) -> Starlette:
        routes = [
            Route("/", self.page, name="/"),
            Mount("/static", StaticFiles(directory=STATIC)),
            Route("/healthz", self.healthz),
            Route("/readyz", self.readyz),
            *(Route(path, self.recorded(path, handler), methods=[method]) for path, method, handler in self.api()),
        ]
        handlers: dict[Any, Any] = {
            HTTPException: on_http_error,
            BadInput: on_bad_input,
            LabError: on_lab_error,
            Full: on_full,
            TimeoutError: on_slow_body,
            Exception: on_internal_error,
        }
        return Starlette(routes=routes, exception_handlers=handlers, lifespan=self.lifespan)

    def api(self) -> list[tuple[str, str, Callable[[Request], Awaitable[Response]]]]:
        """Return the routes that the OpenAPI schema describes."""
        return [
            ("/predict", "POST", self.predict),
            ("/predict/batch", "POST", self.predict_batch),
            ("/explain", "POST", self.explain),
            ("/model", "GET", self.model),
            ("/models", "GET", self.list_models),
            ("/metrics", "GET", self.show_metrics),
            ("/openapi.json", "GET", self.schema),
        ]

    @staticmethod
    def recorded(
        path: str, handler: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """Return the handler, which also records its route for log and metrics."""

        async def handle(request: Request) -> Response:
            request.state.record.route = path
            require_known_parameters(request, path)
            return await handler(request)

        return handle

    @contextlib.asynccontextmanager
    async def lifespan(self, _app: Starlette) -> AsyncIterator[dict[str, Any]]:
        self.engine.start()
        yield {"gate": self.gate}
        await asyncio.to_thread(self.engine.stop)

    async def predict(self, request: Request) -> Response:
        name, top_k, risk = self.chosen(request), top_k_of(request), self.risk_of(request)
        async with self.images(request) as images:
            if len(images) != 1:
                raise HTTPException(400, f"the request has {len(images)} images; send one, or use /predict/batch")
            (answer,) = await self.computed(request, name, [image.content for image in images])
        if isinstance(answer, LabError):
            raise answer
        return JSONResponse({"model": name, **self.shown(name, answer, top_k, risk)})

    async def predict_batch(self, request: Request) -> Response:
        name, top_k, risk = self.chosen(request), top_k_of(request), self.risk_of(request)
        async with self.images(request) as images:
            answers = await self.computed(request, name, [image.content for image in images])
        shown = [
            {"file": image.file, "error": str(answer)}
            if isinstance(answer, LabError)
            else {"file": image.file, **self.shown(name, answer, top_k, risk)}
            for image, answer in zip(images, answers, strict=True)
        ]
        return JSONResponse({"model": name, "predictions": shown})

    async def explain(self, request: Request) -> Response:
        name = self.chosen(request)
        request.state.record.facts["model"] = name
        wanted = request.query_params.get("class")
        classes = self.models[name].classes
        if wanted is not None and wanted not in classes:
            raise unknown("class", wanted, classes)

        def explain(classifier: Classifier, pixels: np.ndarray) -> dict[str, Any]:
            probabilities = classifier.probabilities(pixels[None]).numpy()[0]
            index = int(probabilities.argmax()) if wanted is None else classes.index(wanted)
            heat = grad_cam_map(classifier.model, pixels, index)
            return {"class": classes[index], "probability": float(probabilities[index]), "map": grey_png(heat)}

        async with self.images(request) as images:
            if len(images) != 1:
                raise HTTPException(400, f"the request has {len(images)} images; send one")
            found = await self.engine.explain(name, images[0].content, explain)
        preprocessing = self.models[name].model.preprocessing
        covers = {
            "fit": preprocessing.fit,
            "resize_to": preprocessing.resize_to,
            "image_size": preprocessing.image_size,
        }
        return JSONResponse({"model": name, **found, "covers": covers})

    async def computed(self, request: Request, name: str, contents: list[bytes]) -> list[Answer | LabError]:
        self.metrics.waiting.set(self.engine.waiting + len(contents))
        request.state.record.facts.update(model=name, images=len(contents))
        try:
            return await self.engine.predict(name, contents)
        finally:
            self.metrics.waiting.set(self.engine.waiting)

    def shown(self, name: str, answer: Answer, top_k: int, risk: float | None) -> dict[str, Any]:
        """Return the answer as JSON types, in the form of `resnetlab predict --json`."""
        classifier, values = self.models[name], answer.probabilities
        order = np.argsort(-values, kind="stable")[:top_k]
        top = [{"name": classifier.classes[index], "probability": float(values[index])} for index in order]
        is_rejected = risk is not None and top[0]["probability"] < classifier.model.rejection(risk).threshold
        times = {"decode": answer.decode_seconds, "wait": answer.wait_seconds, "compute": answer.compute_seconds}
        return {
            "predicted": top[0]["name"],
            "probability": top[0]["probability"],
            "rejected": is_rejected,
            "top": top,
            "milliseconds": {step: round(1000 * seconds, 3) for step, seconds in times.items()},
        }

    def chosen(self, request: Request) -> str:
        """Return the name of the model that the request asks for; default: the first."""
        name = request.query_params.get("model")
        if name is None:
            return next(iter(self.models))
        if name not in self.models:
            raise HTTPException(404, str(unknown("model", name, self.models)))
        return name

    def risk_of(self, request: Request) -> float | None:
        """Return the risk for which a prediction may be rejected; checked before the body is read."""
        text = request.query_params.get("reject")
        risk = self.settings.reject if text is None else number(text, "reject")
        if risk is not None:
            self.models[self.chosen(request)].model.rejection(risk)
        return risk

    @contextlib.asynccontextmanager
    async def images(self, request: Request) -> AsyncIterator[list[Upload]]:
        """Yield the images of a request: its body, or the files of a multipart form.

        Their bytes count as held by the server until the end of the block.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind.startswith("text/") or kind == "application/json":
            raise HTTPException(415, f"the body is {kind}; send the bytes of an image file, or a multipart form")
        body = bytearray()
        try:
            await self.receive(request, body)
            request.state.record.facts["bytes"] = len(body)
            if kind == "multipart/form-data":
                yield await self.form(request, body)
            elif body:
                yield [Upload("", bytes(body))]
            else:
                raise HTTPException(400, "the body is empty; send the bytes of an image file, or a multipart form")
        finally:
            self.body_bytes -= len(body)

    async def receive(self, request: Request, body: bytearray) -> None:
        """Read the body of a request. Raises HTTPException if it is too large, TimeoutError if it is too slow."""
        settings = self.settings
        length = request.headers.get("content-length", "0")
        if not (length.isascii() and length.isdecimal()) or int(length) > settings.max_body:
            raise HTTPException(413, f"the body is larger than {settings.max_body / MB:g} MB")
        async with asyncio.timeout(settings.body_seconds):
            async for chunk in request.stream():
                if len(body) + len(chunk) > settings.max_body:
                    raise HTTPException(413, f"the body is larger than {settings.max_body / MB:g} MB")
                if self.body_bytes + len(chunk) > settings.max_bodies:
                    raise Full
                body += chunk
                self.body_bytes += len(chunk)

    async def form(self, request: Request, body: bytearray) -> list[Upload]:
        async def chunks() -> AsyncGenerator[bytes, None]:
            for start in range(0, len(body), CHUNK):
                yield bytes(body[start : start + CHUNK])
                await asyncio.sleep(0)
            if not parser.is_complete:
                raise MultiPartException("it ends before its last boundary")

        most = min(self.settings.max_batch, self.settings.max_images)  # more would be refused for ever as too busy
        parser = FormParser(request.headers, chunks(), max_files=most, max_fields=100)
        parser.spool_max_size = self.settings.max_body + 1  # in memory; the body is there already
        try:
            form = await parser.parse()
        except MultiPartException as problem:
            raise HTTPException(400, f"the multipart form cannot be read: {problem.message}") from problem
        except (UnicodeError, FormParserError) as problem:  # a charset that decodes nothing; earlier Starlettes
            raise HTTPException(400, f"the multipart form cannot be read: {problem}") from problem
        files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        texts = [name for name, value in form.multi_items() if not isinstance(value, UploadFile)]
        if files and texts:
            await form.close()
            raise HTTPException(
                400,
                f"the field {texts[0][:50]!r} of the form is no file; send each image as a file with a name "
                "(-F image=@cat.jpg), and parameters in the address (/predict?top_k=3)",
            )
        if not files:
            raise HTTPException(400, "the form has no files; send each image as a file with a name: -F image=@cat.jpg")
        images = [Upload(file.filename or "", await file.read()) for file in files]
        await form.close()
        return images

    async def page(self, request: Request) -> Response:
        request.state.record.route = "/"
        return FileResponse(STATIC / "index.html", headers={"cache-control": "no-cache"})

    async def healthz(self, request: Request) -> Response:
        """The process answers."""
        request.state.record.route = "/healthz"
        return JSONResponse({"status": "ok"})

    async def readyz(self, request: Request) -> Response:
        """The models are loaded, and the server is not about to stop."""
        request.state.record.route = "/readyz"
        if self.gate.is_draining:
            return error(503, "the server is stopping")
        settings = self.settings
        return JSONResponse(
            {"status": "ready", "needs_token": settings.token is not None, "max_bytes": settings.max_body}
        )

    async def model(self, request: Request) -> Response:
        name = self.chosen(request)
        return JSONResponse(self.described(name))

    def described(self, name: str) -> dict[str, Any]:
        model = self.models[name].model
        validation = model.validation
        return {
            "model": name,
            "network": model.network.name,
            "classes": list(model.classes),
            "preprocessing": model.preprocessing.to_json(),
            "weights_digest": model.weights_digest,
            "validation": None if validation is None else asdict(validation),
            "provenance": dict(model.provenance),
            "version": __version__,
        }

    async def list_models(self, _request: Request) -> Response:
        rows = [
            {"model": name, "network": classifier.model.network.name, "classes": len(classifier.classes)}
            for name, classifier in self.models.items()
        ]
        return JSONResponse({"default": rows[0]["model"], "models": rows})

    async def show_metrics(self, _request: Request) -> Response:
        content, kind = self.metrics.page()
        return Response(content, media_type=kind)

    async def schema(self, _request: Request) -> Response:
        return JSONResponse(openapi(list(self.models), self.settings))


def application(models: Mapping[str, Classifier], settings: Settings | None = None) -> Gate:
    """Return the ASGI application that serves classifiers by name; the first is the default.

    Any ASGI server can run it, but the time-outs of connections are those of `resnetlab serve`.
    """
    if not models:
        raise BadInput("a server needs at least one model")
    settings = settings or Settings()
    require_thresholds(models, settings.reject)
    return Server(models, settings).gate


def require_thresholds(models: Mapping[str, Classifier], risk: float | None) -> None:
    """Raise BadInput, with its name, for a model without a rejection threshold for the risk; None: none is needed."""
    if risk is None:
        return
    for name, classifier in models.items():
        try:
            classifier.model.rejection(risk)
        except BadInput as error:
            raise BadInput(f"{printable(name)}: {error}") from error


def require_known_parameters(request: Request, path: str) -> None:
    """Raise HTTPException for a query parameter that the route does not have, or that is given twice."""
    allowed, given = PARAMETERS.get(path, ()), [name for name, _ in request.query_params.multi_items()]
    for number, name in enumerate(given):
        if name not in allowed:
            short = name[:50]
            reason = str(unknown("parameter", short, allowed)) if allowed else f"{path} has no parameter {short!r}"
            raise HTTPException(400, reason)
        if name in given[:number]:
            raise HTTPException(400, f"the parameter {name!r} is given more than once; give one value")


def top_k_of(request: Request) -> int:
    text = request.query_params.get("top_k", str(TOP_K))
    if not (text.isascii() and text.isdecimal() and len(text) <= 6) or not 1 <= int(text) <= 100_000:
        raise HTTPException(400, f"top_k is {text[:50]!r}; give a whole number from 1 to 100000")
    return int(text)


def number(text: str, name: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise HTTPException(400, f"{name} is {text[:50]!r}; give a number from 0 to 1")
    return value


def grey_png(heat: np.ndarray) -> str:
    """Return a map (H, W) of values in [0, 1] as a grey 8-bit PNG file, in base64."""
    file = io.BytesIO()
    Image.fromarray(np.rint(heat * 255).astype(np.uint8)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


async def on_http_error(request: Request, problem: Exception) -> Response:
    assert isinstance(problem, HTTPException)
    if problem.status_code in (404, 405) and problem.detail in PHRASES:
        path = request.url.path[:200]
        return error(problem.status_code, f"there is no {request.method} {path}; /openapi.json lists what there is")
    return error(problem.status_code, problem.detail, dict(problem.headers or {}))


async def on_bad_input(_request: Request, problem: Exception) -> Response:
    return error(413 if isinstance(problem, TooManyPixels) else 400, str(problem))


async def on_lab_error(_request: Request, problem: Exception) -> Response:
    if problem.__cause__ is not None:
        LOGGER.error("%s", problem, exc_info=problem.__cause__)
    return error(500, str(problem))


async def on_internal_error(_request: Request, problem: Exception) -> Response:
    """The error itself is logged by the gate, to which Starlette passes it on."""
    return error(500, f"internal error: {type(problem).__name__}")


async def on_full(_request: Request, _problem: Exception) -> Response:
    return error(503, "too many images are waiting; try again in a second", {"retry-after": "1"})


async def on_slow_body(_request: Request, _problem: Exception) -> Response:
    return error(408, "the body of the request did not arrive in time")
