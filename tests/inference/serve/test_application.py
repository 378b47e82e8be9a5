"""The answers of the web application: those of the Classifier, and one sentence for every bad request."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from resnetlab.cli.arguments import ServeArguments
from resnetlab.cli.parsing import parse
from resnetlab.cli.serving import settings_of, warnings_of
from resnetlab.errors import BadInput, LabError, NonFinite
from resnetlab.inference.explain import grad_cam_map
from resnetlab.inference.predict import Classifier
from resnetlab.inference.serve import application as application_module
from resnetlab.inference.serve import run
from resnetlab.inference.serve.application import Server, application
from resnetlab.inference.serve.engine import Answer, Engine, Full
from resnetlab.inference.serve.settings import Settings, read_token

HOST = "http://127.0.0.1:8000"
THRESHOLD = 0.45  # of the model file
Picture = Callable[..., bytes]


def client_of(classifier: Classifier, **settings: Any) -> TestClient:
    models = {"pets": classifier, "others": classifier}
    return TestClient(application(models, Settings(**settings)), base_url=HOST)


@pytest.fixture(scope="module")
def client(classifier: Classifier) -> Iterator[TestClient]:
    with client_of(classifier) as client:
        yield client


def test_an_answer_is_that_of_the_classifier(client: TestClient, classifier: Classifier, make_picture: Picture) -> None:
    for seed in range(5):
        content = make_picture(seed)
        expected = classifier(content)
        answer = client.post("/predict", content=content).json()
        assert answer["model"] == "pets"
        assert answer["predicted"] == expected.predicted
        assert {row["name"]: row["probability"] for row in answer["top"]} == pytest.approx(expected.probabilities)
        assert answer["probability"] == answer["top"][0]["probability"]
        assert not answer["rejected"]
        assert set(answer["milliseconds"]) == {"decode", "wait", "compute"}


def test_a_form_and_a_raw_body_have_the_same_answer(client: TestClient, make_picture: Picture) -> None:
    content = make_picture(3)
    raw = client.post("/predict", content=content, headers={"content-type": "image/png"}).json()
    form = client.post("/predict", files={"image": ("cat.png", content)}).json()
    assert raw["top"] == form["top"]


def test_a_batch_keeps_the_order_and_names_what_cannot_be_read(
    client: TestClient, classifier: Classifier, make_picture: Picture
) -> None:
    contents = [make_picture(1), b"no image", make_picture(2, kind="JPEG")]
    files = [("images", (f"{number}.png", content)) for number, content in enumerate(contents)]
    answers = client.post("/predict/batch", files=files, params={"top_k": 1}).json()["predictions"]
    assert [answer["file"] for answer in answers] == ["0.png", "1.png", "2.png"]
    assert answers[0]["predicted"] == classifier(contents[0]).predicted
    assert answers[2]["predicted"] == classifier(contents[2]).predicted
    assert "not an image" in answers[1]["error"]
    assert len(answers[0]["top"]) == 1


def test_predictions_are_rejected_by_the_threshold_of_the_model(
    client: TestClient, classifier: Classifier, make_picture: Picture
) -> None:
    answers = [client.post("/predict?reject=0.05", content=make_picture(seed)).json() for seed in range(20)]
    rejected = [answer["rejected"] for answer in answers]
    assert rejected == [answer["probability"] < THRESHOLD for answer in answers]
    assert 0 < sum(rejected) < 20
    refused = client.post("/predict?reject=0.03", content=make_picture())
    assert refused.status_code == 400
    assert "0.05" in refused.json()["error"]
    with client_of(classifier, reject=0.05) as strict:
        answers = [strict.post("/predict", content=make_picture(seed)).json() for seed in range(20)]
    assert [answer["rejected"] for answer in answers] == rejected


def test_a_risk_without_a_threshold_is_refused_before_the_server_starts(
    classifier: Classifier, model_file: Path
) -> None:
    with pytest.raises(BadInput, match=r"^pets: this model has no rejection threshold for a risk of 0.3; choose from"):
        client_of(classifier, reject=0.3)
    with pytest.raises(BadInput, match=r"^a b: this model has no rejection threshold for a risk of 0.3"):
        run.serve(run.Models({"a b": str(model_file)}, "cpu"), Settings(reject=0.3), port=0, workers=2)


def test_a_form_has_at_most_as_many_images_as_may_wait(classifier: Classifier, make_picture: Picture) -> None:
    files = [("images", make_picture(seed)) for seed in range(3)]
    with client_of(classifier, max_images=2) as client:
        assert len(client.post("/predict/batch", files=files[:2]).json()["predictions"]) == 2
        refused = client.post("/predict/batch", files=files)  # 503 would say that it fits in a second
    assert (refused.status_code, "2" in refused.json()["error"]) == (400, True)


def test_an_explanation_is_the_grad_cam_map(client: TestClient, classifier: Classifier, make_picture: Picture) -> None:
    content = make_picture(2)
    pixels = classifier.pixels(content)
    top = classifier(content).predicted
    for name in (None, "newt"):
        params = {} if name is None else {"class": name}
        answer = client.post("/explain", content=content, params=params).json()
        assert answer["class"] == name or (name is None and answer["class"] == top)
        expected = grad_cam_map(classifier.model, pixels, classifier.classes.index(answer["class"]))
        found = np.asarray(Image.open(io.BytesIO(base64.b64decode(answer["map"]))))
        assert np.array_equal(found, np.rint(255 * expected))
    assert answer["covers"] == {"fit": "crop", "resize_to": 20, "image_size": 16}
    assert client.post("/explain?class=horse", content=content).status_code == 400


def test_models_are_chosen_by_name(client: TestClient, make_picture: Picture) -> None:
    assert client.post("/predict?model=others", content=make_picture()).json()["model"] == "others"
    assert client.get("/model?model=others").json()["model"] == "others"
    refused = client.post("/predict?model=pet", content=make_picture())
    assert refused.status_code == 404
    assert "did you mean 'pets'?" in refused.json()["error"]
    rows = client.get("/models").json()
    assert rows["default"] == "pets"
    assert [row["model"] for row in rows["models"]] == ["pets", "others"]


def test_the_description_of_a_model_has_what_its_file_has(client: TestClient, classifier: Classifier) -> None:
    described = client.get("/model").json()
    assert described["classes"] == list(classifier.classes)
    assert described["preprocessing"] == classifier.model.preprocessing.to_json()
    assert described["weights_digest"] == classifier.model.weights_digest
    assert described["validation"]["temperature"] == 1.5


@pytest.mark.parametrize(
    ("path", "request_", "status", "word"),
    [
        ("/predict", {"content": b""}, 400, "empty"),
        ("/predict", {"content": b"GIF89a"}, 400, "damaged"),
        ("/predict", {"json": {"image": "..."}}, 415, "application/json"),
        ("/predict", {"content": b"x", "headers": {"content-type": "text/html"}}, 415, "text/html"),
        ("/predict", {"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400, "boundary"),
        ("/predict", {"content": b"x", "headers": {"content-type": "multipart/form-data; boundary=a"}}, 400, "form"),
        ("/predict", {"files": {"a": b"1", "b": b"2"}}, 400, "2 images"),
        *(
            (path, {"data": {"top_k": "3"}, "files": {"a": b"1"}}, 400, "the field 'top_k' of the form is no file")
            for path in ("/predict", "/predict/batch", "/explain")
        ),
        *((path, {"files": {"image": (None, b"x")}}, 400, "has no files") for path in ("/predict", "/predict/batch")),
        ("/predict/batch", {"files": [("a", b"1")] * 65}, 400, "files"),
        ("/predict/batch", {"files": {}, "data": {}}, 400, "empty"),
        ("/predict?top_k=0", {"content": b"x"}, 400, "top_k"),
        ("/predict?top_k=٣", {"content": b"x"}, 400, "top_k"),
        ("/predict?top_k=" + "9" * 5000, {"content": b"x"}, 400, "top_k"),
        ("/predict?top_k=000000001" + "0" * 5000, {"content": b"x"}, 400, "top_k"),
        ("/predict?reject=nan", {"content": b"x"}, 400, "reject"),
        ("/predict?topk=1", {"content": b"x"}, 400, "unknown parameter 'topk'; did you mean 'top_k'?"),
        ("/predict/batch?top_k=1&Reject=0.05", {"content": b"x"}, 400, "unknown parameter 'Reject'"),
        ("/predict?=3", {"content": b"x"}, 400, "unknown parameter ''"),
        ("/predict?%1b[2J" + "x" * 5000 + "=1", {"content": b"x"}, 400, r"unknown parameter '\x1b[2Jx"),
        ("/predict?top_k=1&top_k=2", {"content": b"x"}, 400, "'top_k' is given more than once"),
        ("/explain?top_k=1", {"content": b"x"}, 400, "Choose from model, class"),
        ("/nothing", {"content": b"x"}, 404, "POST /nothing"),
        ("/model", {"content": b"x"}, 405, "POST /model"),
        ("/static/%2e%2e/engine.py", {"content": b"x"}, 405, "POST"),
    ],
)
def test_a_bad_request_is_answered_with_a_sentence(
    client: TestClient, path: str, request_: dict[str, Any], status: int, word: str
) -> None:
    answer = client.post(path, **request_)
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error"}
    assert word in answer.json()["error"]


@pytest.mark.parametrize("path", ["/model?name=pets", "/models?model=pets", "/metrics?name[]=a", "/openapi.json?v=1"])
def test_an_unknown_parameter_of_a_question_is_refused(client: TestClient, path: str) -> None:
    route, _, parameter = path.partition("?")
    answer = client.get(path)
    assert answer.status_code == 400
    assert repr(parameter.partition("=")[0]) in answer.json()["error"]
    assert client.get(route).status_code == 200


def test_pages_and_probes_take_any_parameter(client: TestClient) -> None:
    for path in ("/?from=mail", "/static/page.js?v=2", "/healthz?probe=1", "/readyz?probe=1"):
        assert client.get(path).status_code == 200


def test_a_form_in_a_charset_that_decodes_nothing_is_refused(client: TestClient, make_picture: Picture) -> None:
    form = b'--x\r\nContent-Disposition: form-data; name="a"; filename="a.png"\r\n\r\n' + make_picture() + b"\r\n--x--"
    headers = {"content-type": "multipart/form-data; boundary=x; charset=undefined"}
    answer = client.post("/predict", content=form, headers=headers)
    assert (answer.status_code, "undefined" in answer.json()["error"]) == (400, True)


def test_a_form_without_its_last_boundary_is_refused_with_all_its_images(
    client: TestClient, make_picture: Picture
) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="a"; filename="a.png"\r\n\r\n'
    whole = (head + make_picture() + b"\r\n") * 2 + b"--x--"
    headers = {"content-type": "multipart/form-data; boundary=x"}
    answers = client.post("/predict/batch", content=whole, headers=headers).json()
    assert len(answers["predictions"]) == 2
    for end in (1, 2, 5, 50):
        answer = client.post("/predict/batch", content=whole[:-end], headers=headers)
        assert answer.status_code == 400
        assert "ends before its last boundary" in answer.json()["error"]


def test_a_body_that_is_too_large_is_refused_before_it_is_read(classifier: Classifier, make_picture: Picture) -> None:
    taken = 0

    def chunks() -> Iterator[bytes]:
        nonlocal taken
        for _ in range(100):
            taken += 1
            yield bytes(1000)

    server = Server({"pets": classifier}, Settings(max_body=5000))
    with TestClient(server.gate, base_url=HOST) as client:
        declared = client.post("/predict", content=bytes(6000))
        chunked = client.post("/predict", content=chunks())
        assert (declared.status_code, chunked.status_code) == (413, 413)
        assert "0.005 MB" in declared.json()["error"]
        assert client.post("/predict", content=make_picture()).status_code == 200
    assert server.body_bytes == 0


def test_an_image_with_too_many_pixels_is_refused(client: TestClient) -> None:
    file = io.BytesIO()
    Image.new("1", (8_200, 8_200)).save(file, "PNG")
    answer = client.post("/predict", content=file.getvalue())
    assert answer.status_code == 413
    assert "pixels" in answer.json()["error"]


def test_bodies_that_are_too_many_together_are_refused(classifier: Classifier, make_picture: Picture) -> None:
    with client_of(classifier, max_bodies=10) as client:
        answer = client.post("/predict", content=make_picture())
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"


@pytest.mark.parametrize(
    "host", ["evil.example", "", "127.0.0.1.evil.example", "[::1", "localhost@evil.example", "1.2.3.4"]
)
def test_another_host_is_refused(client: TestClient, host: str) -> None:
    for path in ("/", "/healthz", "/model"):
        assert client.get(path, headers={"host": host}).status_code == 421


def test_the_servers_own_hosts_are_served(client: TestClient, classifier: Classifier) -> None:
    for host in ("127.0.0.1", "localhost:9", "[::1]:8000", "LOCALHOST", "localhost.:8000"):
        assert client.get("/healthz", headers={"host": host}).status_code == 200
    with client_of(classifier, any_address=True, hosts=("birds.example.org",)) as public:
        for host in ("192.168.1.7:8000", "[fe80::1]", "birds.example.org"):
            assert public.get("/healthz", headers={"host": host}).status_code == 200
        assert public.get("/healthz", headers={"host": "evil.example"}).status_code == 421


def served_as(*words: str) -> ServeArguments:
    return parse(ServeArguments, ["model.safetensors", *words], "resnetlab serve")


def test_names_are_served_however_they_were_given(classifier: Classifier) -> None:
    names = ("Birds.Example.org.:8443", "2001:DB8:0::7", "[::2]:80")
    given = served_as("--host", "MyBox.local", *(word for name in names for word in ("--allow-host", name)))
    with TestClient(application({"pets": classifier}, settings_of(given)), base_url=HOST) as client:
        for host in ("mybox.local:8000", "birds.example.org", "[2001:db8::7]", "[::2]:9", "localhost"):
            assert client.get("/healthz", headers={"host": host}).status_code == 200, host
        for host in (
            "evil@mybox.local",
            "mybox.local/x",
            "mybox.local#",
            "mybox.local:80:80",
            "box.local",
            "a mybox.local",
        ):
            assert client.get("/healthz", headers={"host": host}).status_code == 421, host
        answer = client.get("/healthz", headers={"host": "fish.example.org:8443"})
    assert answer.json()["error"].endswith("allow the name with --allow-host fish.example.org")


@pytest.mark.parametrize("name", ["https://birds.example.org", "*", "*.example.org", "birds.example.org/x", ""])
def test_a_name_that_no_host_header_has_is_refused(name: str) -> None:
    with pytest.raises(BadInput, match="give a name such as birds"):
        settings_of(served_as("--allow-host", name))


def test_every_way_to_write_all_networks_or_this_machine_is_known() -> None:
    for host in ("0.0.0.0", "::", "0:0:0:0:0:0:0:0", "0"):
        assert settings_of(served_as("--host", host)).any_address
    for host in ("127.0.0.1", "LocalHost", "0:0::1"):
        assert not settings_of(served_as("--host", host)).any_address
        assert not list(warnings_of(served_as("--host", host)))


@pytest.mark.parametrize(("path", "status"), [("/healthz", 200), ("/readyz", 200), ("/model", 421)])
def test_a_probe_in_http_1_0_needs_no_host(client: TestClient, path: str, status: int) -> None:
    scope = {"type": "http", "http_version": "1.0", "method": "GET", "path": path, "query_string": b"", "headers": []}
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    assert client.portal is not None
    client.portal.call(client.app, scope, receive, send)
    assert sent[0]["status"] == status


def test_pages_of_another_origin_are_refused(client: TestClient, make_picture: Picture) -> None:
    for origin in ("http://evil.example", "null", "http://127.0.0.1:9", "http://[", "file://"):
        refused = client.post("/predict", content=make_picture(), headers={"origin": origin})
        assert refused.status_code == 403
        assert f"{origin!r}; a proxy before this server must pass on the Host header" in refused.json()["error"]
    for origin in ("http://127.0.0.1:8000", "https://127.0.0.1:8000"):
        assert client.post("/predict", content=make_picture(), headers={"origin": origin}).status_code == 200


def test_a_token_opens_everything_but_the_page(classifier: Classifier, make_picture: Picture, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("correct-horse-battery\n")
    with client_of(classifier, token=read_token(tmp_path / "token")) as client:
        for path in ("/", "/healthz", "/readyz", "/static/page.js"):
            assert client.get(path).status_code == 200
        for given in (None, "Bearer", "Bearer wrong", "Basic correct-horse-battery", "Bearer correct-horse-battery2"):
            headers = {} if given is None else {"authorization": given}
            for path in ("/model", "/models", "/metrics", "/openapi.json", "/nothing"):
                answer = client.get(path, headers=headers)
                assert answer.status_code == 401
                assert answer.headers["www-authenticate"] == "Bearer"
            assert client.post("/predict", content=make_picture(), headers=headers).status_code == 401
        right = {"authorization": "Bearer correct-horse-battery"}
        assert client.post("/predict", content=make_picture(), headers=right).status_code == 200


@pytest.mark.parametrize("content", ["", "short", "two words that are long", "ünïcödé-ünïcödé-ünïcödé"])
def test_a_bad_token_file_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "token").write_text(content)
    with pytest.raises(BadInput, match="one word of at least 16"):
        read_token(tmp_path / "token")


def test_every_answer_has_the_security_headers(client: TestClient, make_picture: Picture) -> None:
    answers = [client.get("/"), client.get("/static/page.js"), client.get("/nothing"), client.get("/metrics")]
    for answer in [*answers, client.post("/predict", content=make_picture())]:
        assert answer.headers["content-security-policy"].startswith("default-src 'self';")
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_an_old_script_is_not_used_with_a_new_page(client: TestClient) -> None:
    for path in ("/", "/static/page.js", "/static/page.css"):
        assert client.get(path).headers["cache-control"] == "no-cache"


def test_the_page_needs_no_other_server() -> None:
    from resnetlab.inference.serve.application import STATIC

    for file in STATIC.iterdir():
        text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text, file
        assert "https://" not in text, file
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    assert "<style" not in page
    assert " style=" not in page
    assert not re.search(r"\son[a-z]+=", page)
    assert page.count("<script") == page.count('<script type="module" src="/static/')


def test_requests_at_the_same_time_are_computed_together(classifier: Classifier, make_picture: Picture) -> None:
    contents = [make_picture(seed) for seed in range(24)]
    expected = [classifier(content).probabilities for content in contents]
    with client_of(classifier) as client, ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda content: client.post("/predict", content=content).json(), contents))
        metrics = client.get("/metrics").text
    for answer, probabilities in zip(answers, expected, strict=True):
        assert {row["name"]: row["probability"] for row in answer["top"]} == pytest.approx(probabilities, abs=1e-6)
    assert 'resnetlab_images_total{model="pets"} 24.0' in metrics
    assert 'resnetlab_requests_total{route="/predict",status="200"} 24.0' in metrics
    assert "resnetlab_waiting_images 0.0" in metrics


class Slow:
    """A classifier whose network waits until it may compute."""

    def __init__(self, classifier: Classifier) -> None:
        self.classifier, self.may_compute = classifier, threading.Event()
        self.classes, self.model = classifier.classes, classifier.model
        self.batches: list[int] = []
        self.decoded = 0

    def pixels(self, content: bytes) -> np.ndarray:
        self.decoded += 1
        return self.classifier.pixels(content)

    def probabilities(self, pixels: np.ndarray) -> Any:
        self.may_compute.wait(30)
        self.batches.append(len(pixels))
        return self.classifier.probabilities(pixels)


def wait_until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_full_queue_is_answered_at_once_and_what_was_accepted_is_answered(
    classifier: Classifier, make_picture: Picture
) -> None:
    slow: Any = Slow(classifier)
    server = Server({"pets": slow}, Settings(max_images=5, max_batch=3))
    content = make_picture()
    with TestClient(server.gate, base_url=HOST) as client, ThreadPoolExecutor(5) as pool:
        accepted = [pool.submit(client.post, "/predict", content=content) for _ in range(5)]
        wait_until(lambda: slow.decoded == 5)
        refused = client.post("/predict", content=content)
        batch = client.post("/predict/batch", files=[("images", content)] * 2)
        alive = client.get("/healthz")
        slow.may_compute.set()
        assert [answer.result().status_code for answer in accepted] == [200] * 5
        assert client.post("/predict", content=content).status_code == 200
    assert (refused.status_code, batch.status_code, alive.status_code) == (503, 503, 200)
    assert refused.headers["retry-after"] == "1"
    assert sum(slow.batches) == 6
    assert max(slow.batches) <= 3


def test_only_the_image_whose_output_is_not_finite_fails(classifier: Classifier, make_picture: Picture) -> None:
    class Fragile(Slow):
        def probabilities(self, pixels: np.ndarray) -> Any:
            if (pixels == 0).all((1, 2, 3)).any():
                raise NonFinite("the output of the network is NaN or infinite")
            return self.classifier.probabilities(pixels)

    black = io.BytesIO()
    Image.new("RGB", (20, 20)).save(black, "PNG")
    fragile: Any = Fragile(classifier)
    with TestClient(application({"pets": fragile}), base_url=HOST) as client:
        files = [("images", make_picture()), ("images", black.getvalue()), ("images", make_picture())]
        answers = client.post("/predict/batch", files=files).json()["predictions"]
        alone = client.post("/predict", content=black.getvalue())
    assert ["error" in answer for answer in answers] == [False, True, False]
    assert alone.status_code == 500
    assert "NaN" in alone.json()["error"]


def test_an_error_of_ours_is_logged_and_answered(
    classifier: Classifier, make_picture: Picture, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Slow):
        def probabilities(self, pixels: np.ndarray) -> Any:
            raise KeyError("bug")

    broken: Any = Broken(classifier)
    with TestClient(application({"pets": broken}), base_url=HOST) as client:
        answer = client.post("/predict", content=make_picture())
    assert answer.status_code == 500
    assert answer.json() == {"error": "internal error: KeyError: 'bug'"}
    assert "KeyError" in caplog.text


def test_an_error_in_a_handler_is_answered_in_json(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(application_module, "openapi", lambda *_: {}["bug"])
    answer = client.get("/openapi.json")
    assert (answer.status_code, answer.json()) == (500, {"error": "internal error: KeyError"})
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "KeyError: 'bug'" in caplog.text


def test_the_access_log_has_a_line_of_json_for_every_request(
    classifier: Classifier, make_picture: Picture, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "resnetlab.access"), client_of(classifier) as client:
        client.post("/predict?model=others", content=make_picture())
        client.get("/healthz", headers={"host": "evil"})
        client.get("/a%0a%1b[2J")
    lines = [json.loads(record.getMessage()) for record in caplog.records if record.name == "resnetlab.access"]
    assert [(line["method"], line["path"], line["status"]) for line in lines] == [
        ("POST", "/predict", 200),
        ("GET", "/healthz", 421),
        ("GET", "/a\n\x1b[2J", 404),
    ]
    assert lines[0]["model"] == "others"
    assert lines[0]["bytes"] == len(make_picture())
    assert all("\n" not in record.getMessage() for record in caplog.records)


def test_the_schema_has_the_routes_of_the_application(classifier: Classifier, client: TestClient) -> None:
    schema = client.get("/openapi.json").json()
    described = {(path, method.upper()) for path, methods in schema["paths"].items() for method in methods}
    assert described == {(path, method) for path, method, _ in Server({"pets": classifier}, Settings()).api()}


def test_answers_have_the_properties_that_the_schema_requires(client: TestClient, make_picture: Picture) -> None:
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    files = [("images", make_picture()), ("images", b"no image")]
    answers = {
        "Prediction": client.post("/predict", content=make_picture()),
        "Predictions": client.post("/predict/batch", files=files),
        "Explanation": client.post("/explain", content=make_picture()),
        "Model": client.get("/model"),
        "Models": client.get("/models"),
        "Error": client.get("/nothing"),
    }
    assert answers.keys() == schemas.keys()
    for name, answer in answers.items():
        assert list(answer.json()) == list(schemas[name]["properties"]) == schemas[name]["required"], name
    good, bad = answers["Predictions"].json()["predictions"]
    options = schemas["Predictions"]["properties"]["predictions"]["items"]["oneOf"]
    assert [list(good), list(bad)] == [option["required"] for option in options]


def test_the_engine_refuses_before_it_decodes(classifier: Classifier, make_picture: Picture) -> None:
    async def fill() -> list[Answer | LabError]:
        engine = Engine({"pets": classifier}, max_images=2, max_batch=2)
        engine.start()
        with pytest.raises(Full):
            await engine.predict("pets", [make_picture()] * 3)
        answers = await engine.predict("pets", [make_picture()] * 2)
        await asyncio.to_thread(engine.stop)
        assert engine.waiting == 0
        return answers

    assert all(isinstance(answer, Answer) for answer in asyncio.run(fill()))


def test_the_engine_goes_on_when_its_numbers_cannot_be_written(classifier: Classifier, make_picture: Picture) -> None:
    def full(*_: object) -> None:
        raise OSError("the disk is full")

    async def predict() -> list[Answer | LabError]:
        engine = Engine({"pets": classifier}, max_images=2, max_batch=2, on_batch=full)
        engine.start()
        answers = [*await engine.predict("pets", [make_picture()]), *await engine.predict("pets", [make_picture()])]
        await asyncio.to_thread(engine.stop)
        return answers

    for answer in asyncio.run(asyncio.wait_for(predict(), 30)):
        assert "internal error: OSError: the disk is full" in str(answer)


def test_a_server_without_models_is_refused() -> None:
    with pytest.raises(BadInput, match="at least one model"):
        application({})


def test_workers_have_a_minute_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run.START_SECONDS >= 60
    monkeypatch.setattr(run, "START_SECONDS", 77)
    found = run.configuration(lambda: pytest.fail("it starts"), 2)
    assert (found.workers, found.timeout_worker_healthcheck) == (2, 77)


def test_models_are_loaded_in_the_given_precision(model_file: Path) -> None:
    (served,) = run.Models({"pets": str(model_file)}, "cpu", "bf16").load().values()
    assert served.runtime.precision_name == "bf16"
