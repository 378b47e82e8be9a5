"""The OpenAPI schema of the server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from resnetlab import __version__
from resnetlab.inference.serve.settings import MB, Settings

NUMBER, TEXT, INTEGER, FLAG = ({"type": kind} for kind in ("number", "string", "integer", "boolean"))
BINARY = {"type": "string", "format": "binary"}
PARAMETERS = {  # of each route, in its address
    "/predict": ("model", "top_k", "reject"),
    "/predict/batch": ("model", "top_k", "reject"),
    "/explain": ("model", "class"),
    "/model": ("model",),
}


def table(**properties: Any) -> dict[str, Any]:
    """Return the schema of an object that has all of these properties."""
    return {"type": "object", "properties": properties, "required": list(properties)}


def rows(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": item}


def reference(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


PREDICTION = {
    "predicted": TEXT,
    "probability": NUMBER,
    "rejected": {**FLAG, "description": "true: the probability is below the threshold for the risk; none of these"},
    "top": rows(table(name=TEXT, probability=NUMBER)),
    "milliseconds": table(decode=NUMBER, wait=NUMBER, compute=NUMBER),
}
FAILED = {"type": "object", "properties": {"file": TEXT, "error": TEXT}, "required": ["file", "error"]}
SCHEMAS = {
    "Prediction": table(model=TEXT, **PREDICTION),
    "Predictions": table(model=TEXT, predictions=rows({"oneOf": [table(file=TEXT, **PREDICTION), FAILED]})),
    "Explanation": table(
        model=TEXT,
        **{"class": TEXT},
        probability=NUMBER,
        map={**TEXT, "format": "byte", "description": "a grey PNG file in base64; white: evidence for the class"},
        covers={
            **table(fit={"enum": ["crop", "squash", "pad"]}, resize_to=INTEGER, image_size=INTEGER),
            "description": "the map covers the central image_size × image_size of the image resized to resize_to",
        },
    ),
    "Model": table(
        model=TEXT,
        network=TEXT,
        classes=rows(TEXT),
        preprocessing={"type": "object"},
        weights_digest=TEXT,
        validation={"type": ["object", "null"]},
        provenance={"type": "object"},
        version=TEXT,
    ),
    "Models": table(default=TEXT, models=rows(table(model=TEXT, network=TEXT, classes=INTEGER))),
    "Error": table(error=TEXT),
}


def openapi(models: Sequence[str], settings: Settings) -> dict[str, Any]:
    """Return the schema of a server with these models.

    >>> openapi(["cats"], Settings())["paths"]["/model"]["get"]["parameters"][0]["schema"]["enum"]
    ['cats']
    """
    queries = {
        "model": query("model", "default: the first", enum=list(models), type="string"),
        "top_k": query("top_k", "number of classes in the answer; default: 5", type="integer", minimum=1),
        "reject": query("reject", "reject predictions for this risk", type="number", minimum=0, maximum=1),
        "class": query("class", "default: the predicted class", type="string"),
    }
    of = {path: [queries[name] for name in names] for path, names in PARAMETERS.items()}
    image = {"image/*": {"schema": BINARY}, "application/octet-stream": {"schema": BINARY}}
    form = {"multipart/form-data": {"schema": table(image=BINARY)}}
    forms = {"multipart/form-data": {"schema": table(images=rows(BINARY))}}
    paths = {
        "/predict": {"post": operation("Predict one image", "Prediction", of["/predict"], {**image, **form})},
        "/predict/batch": {"post": operation("Predict images", "Predictions", of["/predict/batch"], forms)},
        "/explain": {"post": operation("Grad-CAM map of one class", "Explanation", of["/explain"], {**image, **form})},
        "/model": {"get": operation("The content of a model file, without weights", "Model", of["/model"])},
        "/models": {"get": operation("The models of this server", "Models")},
        "/metrics": {"get": plain("Metrics for Prometheus", "text/plain")},
        "/openapi.json": {"get": plain("This schema", "application/json")},
    }
    about = (
        f"Images are files of at most {settings.max_body / MB:g} MB. Every error is a JSON object with one sentence. "
        "503 has a Retry-After header."
    )
    described: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "resnetlab", "version": __version__, "description": about},
        "paths": paths,
        "components": {"schemas": SCHEMAS},
    }
    if settings.token is not None:
        described["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        described["security"] = [{"token": []}]
    return described


def query(name: str, description: str, **schema: Any) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "description": description, "schema": schema}


def operation(
    summary: str, answer: str, parameters: Sequence[dict[str, Any]] = (), body: dict[str, Any] | None = None
) -> dict[str, Any]:
    problem = {"description": "the error", "content": {"application/json": {"schema": reference("Error")}}}
    found = {
        "summary": summary,
        "parameters": list(parameters),
        "responses": {
            "200": {"description": summary, "content": {"application/json": {"schema": reference(answer)}}},
            "4XX": problem,
            "5XX": problem,
        },
    }
    return found if body is None else {**found, "requestBody": {"required": True, "content": body}}


def plain(summary: str, kind: str) -> dict[str, Any]:
    return {"summary": summary, "responses": {"200": {"description": summary, "content": {kind: {}}}}}
