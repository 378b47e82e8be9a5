"""Push to and load from a double of the Hugging Face Hub on the loopback, which plays as much of its API as is used."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from huggingface_hub import constants
from PIL import Image

import resnetlab
from resnetlab.data.preprocess import Preprocessing
from resnetlab.errors import BadInput
from resnetlab.inference import hub
from resnetlab.inference.model_file import save_model
from resnetlab.inference.predict import Classifier
from resnetlab.models import build_model
from resnetlab.models.zoo import Architecture

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # within huggingface_hub
TINY = Architecture("basic", (1, 1), width=4, stem="cifar", shortcut="A")
PIXELS = Preprocessing(8, 8, 3, (0.5,) * 3, (0.25,) * 3)


class Hub(BaseHTTPRequestHandler):
    """One repository store: names, privacy, the files of each revision, and what every request said."""

    repositories: dict[str, dict[str, Any]]
    large: dict[str, bytes]
    requests: list[tuple[str, str, dict[str, str]]]
    protocol_version = "HTTP/1.1"

    def answer(self, status: int, content: object = b"", **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def begin(self) -> tuple[bytes, bool]:
        """The body of the request, and True if its token may write."""
        self.requests.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return content, self.headers.get("Authorization") == "Bearer hf_right"

    def do_POST(self) -> None:
        content, may_write = self.begin()
        if not may_write:
            self.answer(401, {"error": "Invalid username or password."})
            return
        if self.path == "/api/repos/create":
            asked = json.loads(content)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            private = asked.get("private") or asked.get("visibility") == "private"
            self.repositories.setdefault(name, {"private": private, "revisions": {}})
            self.answer(200, {"url": f"http://{self.headers['Host']}/{name}"})
        elif self.path == "/api/validate-yaml":
            self.answer(200, {"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = json.loads(content)["files"]
            kinds = [{"path": f["path"], "uploadMode": mode(f["path"]), "shouldIgnore": False} for f in files]
            self.answer(200, {"files": kinds})
        elif self.path.endswith("/info/lfs/objects/batch"):
            wanted = json.loads(content)["objects"]
            place = f"http://{self.headers['Host']}/upload/"
            objects = [{**one, "actions": {"upload": {"href": place + one["oid"]}}} for one in wanted]
            self.answer(200, {"transfer": "basic", "objects": objects}, Content_Type="application/vnd.git-lfs+json")
        elif "/commit/" in self.path:
            name = "/".join(self.path.split("/")[3:5])
            files = {}
            for line in map(json.loads, content.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    files[value["path"]] = self.large[value["oid"]]
            commit = hashlib.sha1(content).hexdigest()
            self.repositories[name]["revisions"] |= {"main": files, commit: files}
            self.repositories[name]["head"] = commit
            address = f"http://{self.headers['Host']}/{name}/commit/{commit}"
            self.answer(200, {"success": True, "commitOid": commit, "commitUrl": address})
        else:
            self.answer(404)

    def do_PUT(self) -> None:
        content, _ = self.begin()
        self.large[hashlib.sha256(content).hexdigest()] = content
        self.answer(200)

    def do_GET(self) -> None:
        _, may_read = self.begin()
        if self.path.startswith("/api/models/"):
            name = self.path[12:]
            found = {"id": name, "private": self.repositories.get(name, {}).get("private", False)}
            self.answer(*(200, found) if may_read else (401, {"error": "Invalid credentials"}))
            return
        owner, repository, _, revision, file = unquote(self.path).strip("/").split("/", 4)
        found = self.repositories.get(f"{owner}/{repository}")
        if found is None or (found["private"] and not may_read):
            self.answer(401, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
        elif revision not in found["revisions"]:
            self.answer(404, X_Error_Code="RevisionNotFound", X_Error_Message="Invalid rev id")
        elif file not in found["revisions"][revision]:
            self.answer(404, X_Error_Code="EntryNotFound", X_Error_Message="Entry not found")
        else:
            content = found["revisions"][revision][file]
            etag = f'"{hashlib.sha256(content).hexdigest()}"'
            self.answer(200, content, ETag=etag, X_Repo_Commit=found["head"])

    do_HEAD = do_GET

    def log_message(self, *_: Any) -> None:
        pass


def mode(path: str) -> str:
    return "lfs" if path.endswith((".safetensors", ".png")) else "regular"


@pytest.fixture
def double(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    """A running double, an empty cache, and a token that may write."""
    handler = type("Handler", (Hub,), {"repositories": {}, "large": {}, "requests": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    yield handler
    server.shutdown()
    server.server_close()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_model(path, build_model(TINY, 2).eval(), ["cat", "dog"], PIXELS, {"data": "pets"})
    return path


PICTURE = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)


def test_what_was_pushed_loads_again_by_name_and_revision(double, model, command):
    code, out, _ = command("push", model, "me/pets", "--private", "--license", "mit")
    assert code == 0
    address = out.splitlines()[0].removeprefix("uploaded: ")
    commit = address.rpartition("/")[2]
    assert "/me/pets/commit/" in address
    stored = double.repositories["me/pets"]
    assert stored["private"]
    assert stored["revisions"]["main"]["model.safetensors"] == model.read_bytes()
    assert b'resnetlab.load("hf:me/pets")' in stored["revisions"]["main"]["README.md"]
    for source in ("hf:me/pets", f"hf:me/pets@{commit}"):
        assert resnetlab.load(source, "cpu")(PICTURE) == resnetlab.load(model, "cpu")(PICTURE)
    Image.fromarray(PICTURE).save("picture.png")
    code, out, _ = command("predict", "hf:me/pets", "picture.png", "--json")
    assert (code, json.loads(out)[0]["predicted"]) == (0, resnetlab.load(model, "cpu")(PICTURE).predicted)
    assert command("card", "hf:me/pets")[:2] == (0, "the card is card/README.md\n")
    assert [path for _, path, _ in double.requests if "resolve" in path and "model.safetensors" not in path] == []


def test_a_model_on_the_hub_is_evaluated_and_exported_and_nothing_is_written_into_the_cache(
    double, model, command, tmp_path, monkeypatch
):
    def build(_kind, read, _run):
        def predict(batch):
            return np.asarray(
                Classifier(read).probabilities(np.stack([read.preprocessing.resize(one) for one in batch]))
            )

        return {"": b"program"}, {"not_inside": "nothing"}, predict

    monkeypatch.setattr("resnetlab.runs.export.build", build)
    monkeypatch.setattr("resnetlab.inference.verification.milliseconds", lambda *_: 1.0)
    resnetlab.push(model, "me/pets")
    for name in ("cat", "dog"):
        (tmp_path / "photos" / "test" / name).mkdir(parents=True)
        Image.fromarray(PICTURE).save(tmp_path / "photos" / "test" / name / "1.png")
    code, out, err = command("evaluate", "hf:me/pets", "--data", "photos", "--split", "test")
    assert (code, "50.00%" in out) == (0, True), err
    assert "test set used 1 time by this model" in out
    assert (tmp_path / "test-ledger.jsonl").exists()
    code, _, err = command("export", "hf:me/pets", "--format", "pt2", "--images", "photos")
    assert code == 0, err
    assert (tmp_path / "model.pt2").exists()
    assert {path.name for path in (tmp_path / "cache").rglob("*") if path.is_symlink()} == {"model.safetensors"}
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.suffix in (".pt2", ".jsonl")]


def test_requests_say_nothing_about_this_machine(double, model):
    resnetlab.push(model, "me/pets")
    resnetlab.load("hf:me/pets", "cpu")
    assert {headers["user-agent"] for _, path, headers in double.requests if "/upload/" not in path} == {
        f"resnetlab/{resnetlab.__version__}"
    }
    assert not [path for _, path, _ in double.requests if "telemetry" in path]


def test_without_network_the_cache_is_used_and_else_a_sentence_tells_it(double, model, monkeypatch):
    resnetlab.push(model, "me/pets")
    resnetlab.load("hf:me/pets", "cpu")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")
        assert resnetlab.load("hf:me/pets", "cpu").classes == ("cat", "dog")
        with pytest.raises(BadInput, match=r"cannot be reached, and hf:me/other is not in the cache; connect"):
            resnetlab.load("hf:me/other")
        with pytest.raises(BadInput, match=r"cannot be reached \(.*\); connect to the network"):
            resnetlab.push(model, "me/pets")


def test_what_the_hub_refuses_is_a_sentence(double, model, monkeypatch):
    resnetlab.push(model, "me/pets", private=True)
    with pytest.raises(BadInput, match="no such revision"):
        resnetlab.load("hf:me/pets@v2")
    with pytest.raises(BadInput, match="there is no model hf:me/none"):
        resnetlab.load("hf:me/none")
    del double.repositories["me/pets"]["revisions"]["main"]["model.safetensors"]
    with pytest.raises(BadInput, match=r"has no model\.safetensors"):
        resnetlab.load("hf:me/pets")
    for token in ("hf_wrong", None):
        monkeypatch.setenv("HF_TOKEN", token) if token else monkeypatch.delenv("HF_TOKEN")
        with pytest.raises(BadInput, match="hf auth login"):
            resnetlab.push(model, "me/pets")
        with pytest.raises(BadInput, match="or it is private"):
            resnetlab.load("hf:me/pets")
    for name in ("me", "me/", "a b/c", "me/pets/x"):
        with pytest.raises(BadInput, match="give owner/name"):
            resnetlab.push(model, name)
        with pytest.raises(BadInput, match="give hf:owner/name"):
            resnetlab.load(f"hf:{name}")


def test_nothing_private_is_uploaded_where_everybody_can_read_it(double, model, command):
    resnetlab.push(model, "me/pets")
    before = dict(double.repositories["me/pets"]["revisions"])
    assert "me/pets exists on the Hub, and everybody can read it" in command.refuse(
        "push", model, "me/pets", "--private"
    )
    assert double.repositories["me/pets"]["revisions"] == before
    for _ in range(2):
        resnetlab.push(model, "me/secret", private=True)


def test_a_file_of_others_on_the_hub_is_not_read_as_a_model(double, model):
    resnetlab.push(model, "me/pets")
    files = double.repositories["me/pets"]["revisions"]["main"]
    content = bytearray(files["model.safetensors"])
    content[-1] ^= 1
    for wrong in (bytes(content), b"\x80\x04K\x01.", b"{}"):
        files["model.safetensors"] = wrong
        double.repositories["me/pets"]["head"] = hashlib.sha1(wrong).hexdigest()
        with pytest.raises(BadInput):
            resnetlab.load("hf:me/pets")


def test_without_the_extra_a_sentence_names_the_command(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for use in (lambda: resnetlab.load("hf:me/pets"), lambda: resnetlab.push(model, "me/pets")):
        with pytest.raises(BadInput, match=r"pip install 'resnetlab\[hub\]'"):
            use()


def test_only_a_source_that_begins_with_hf_is_on_the_hub():
    assert hub.is_on_hub("hf:a/b")
    assert not hub.is_on_hub("models/hf:a/b")
