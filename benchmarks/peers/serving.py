"""Requests per second of three servers with one network, and the times of single answers.

The job's task is the server: ours is `resnetlab serve`, naive is the FastAPI handler that most people write, litserve
is LitServe with batching as in its documentation. Each runs in processes of its own. This process is the client:
`batch` connections send `steps` uploads in all, or as many as are answered in SECONDS, each the next one after its
answer. Uploads, network and weights are the same, and every network computes on the CPU.
"""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.peers.common import Job, versions

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
PATIENCE = 120.0  # seconds until a server must answer
SECONDS = 6.0  # after which no request is sent any more
CLASSES = 10


def network(job: Job) -> Any:
    """torchvision's network with the same random weights in every server."""
    import torch

    from benchmarks.peers.networks import plain_network

    torch.manual_seed(0)
    return plain_network(job.model, job.stem, CLASSES).eval()


def stored_side(job: Job) -> int:
    return job.image_size if job.image_size <= 64 else job.image_size * 256 // 224


def ours(job: Job, port: int) -> None:
    from resnetlab.cli.main import entry_point
    from resnetlab.data.preprocess import Preprocessing
    from resnetlab.inference.model_file import save_model
    from resnetlab.models import build_model

    see = Preprocessing(job.image_size, stored_side(job), 3, MEAN, STD)
    model = build_model(job.model, CLASSES, stem=job.stem)
    model.load_state_dict(network(job).state_dict())
    file = Path(job.scratch, "model.safetensors")
    save_model(file, model.eval(), [str(number) for number in range(CLASSES)], see, {})
    sys.argv[1:] = ["serve", str(file), "--device", "cpu", "--port", str(port)]
    entry_point()


def transform(job: Job) -> Any:
    from torchvision import transforms

    return transforms.Compose(
        [
            transforms.Resize(stored_side(job)),
            transforms.CenterCrop(job.image_size),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )


def naive(job: Job, port: int) -> None:
    import torch
    import uvicorn
    from fastapi import FastAPI, UploadFile
    from PIL import Image

    app, model, see = FastAPI(), network(job), transform(job)

    async def predict(image: UploadFile) -> dict[str, Any]:
        picture = Image.open(io.BytesIO(await image.read())).convert("RGB")
        with torch.no_grad():
            probabilities = model(see(picture)[None]).softmax(1)[0]
        return {"class": int(probabilities.argmax()), "probability": float(probabilities.max())}

    predict.__annotations__["image"] = UploadFile  # FastAPI does not find a local name in the text of an annotation
    app.post("/predict")(predict)
    uvicorn.run(app, port=port)


def litserve(job: Job, port: int) -> None:
    import litserve

    from benchmarks.peers.serving_litserve import Api

    api = Api(job, max_batch_size=32, batch_timeout=0.01)
    litserve.LitServer(api, accelerator="cpu", timeout=False).run(port=port, generate_client_file=False)


SERVERS = {"ours": ours, "naive": naive, "litserve": litserve}


def request(content: bytes) -> bytes:
    """An upload as browsers and curl send it."""
    boundary = b"----resnetlab"
    body = b'--%b\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n' % boundary
    body += b"Content-Type: image/jpeg\r\n\r\n%b\r\n--%b--\r\n" % (content, boundary)
    head = f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"Content-Type: multipart/form-data; boundary=%b\r\n\r\n" % boundary + body


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sent: bytes) -> None:
    """Send a request and read its answer. Raises ConnectionError for anything but success."""
    writer.write(sent)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
    body = await reader.readexactly(length)
    if b" 200 " not in head.splitlines()[0]:
        raise ConnectionError(f"{head.splitlines()[0].decode()}: {body.decode()[:200]}")


async def load(job: Job, port: int) -> dict[str, Any]:
    """Send the untimed and the timed requests, and return the times."""
    files = sorted(Path(job.folder, "train").glob("*/*"))[:256]
    requests = itertools.cycle([request(file.read_bytes()) for file in files])
    await ready(port, next(requests))

    async def client(numbers: Any, seconds: list[float], deadline: float) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in numbers:
            began = time.perf_counter()
            if began > deadline and seconds:
                break
            await answer(reader, writer, next(requests))
            seconds.append(time.perf_counter() - began)
        writer.close()

    async def all_clients(count: int) -> tuple[float, list[float]]:
        numbers, seconds = iter(range(count)), list[float]()  # shared: a client takes the next number when it is free
        began = time.perf_counter()
        await asyncio.gather(*(client(numbers, seconds, began + SECONDS) for _ in range(job.batch)))
        return time.perf_counter() - began, seconds

    await all_clients(job.warmup)
    opened = time.time()
    total, seconds = await all_clients(job.steps)
    ranks = statistics.quantiles(seconds, n=100, method="inclusive")
    return {
        "images": len(seconds),
        "seconds": total,
        "p50_ms": 1000 * ranks[49],
        "p99_ms": 1000 * ranks[98],
        "window": [opened, time.time()],
    }


async def ready(port: int, sent: bytes) -> None:
    """Wait until the server answers a request."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            await answer(reader, writer, sent)
            writer.close()
            return
        except (OSError, asyncio.IncompleteReadError) as error:
            if str(error).startswith("http/1.1 4"):
                sys.exit(f"the server refuses the request: {error}")
            if time.monotonic() > deadline:
                sys.exit(f"the server does not answer: {error}")
            await asyncio.sleep(0.2)


def main(job: Job) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "benchmarks.peers.serving", sys.argv[1], str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        result = asyncio.run(load(job, port))
    finally:
        server.terminate()
    print("\n" + json.dumps({**result, "versions": versions()}), flush=True)
    os._exit(0)  # whoever started this ends all processes of the session


if __name__ == "__main__":
    given = Job.from_json(json.loads(sys.argv[1]))
    if len(sys.argv) > 2:
        SERVERS[given.task](given, int(sys.argv[2]))
    else:
        main(given)
