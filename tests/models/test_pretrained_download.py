"""Weights by address: the digest in the name is checked on arrival and again on every use."""

import hashlib
import os
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from resnetlab import files
from resnetlab.errors import BadInput
from resnetlab.models import pretrained
from resnetlab.models.build import build_model
from resnetlab.models.pretrained import load_pretrained


class Quiet(SimpleHTTPRequestHandler):
    requests = 0

    def log_message(self, *args):
        type(self).requests += 1


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder, its address on this machine's loopback, and the handler that counts requests."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    folder = tmp_path / "site"
    folder.mkdir()
    handler = type("Counting", (Quiet,), {})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}", handler
        server.shutdown()
        thread.join()


def published(folder, seed=1):
    """Weights under their digest, as torch.hub names them."""
    torch.save(build_model("resnet20", 10, seed=seed).state_dict(), folder / "new.pth")
    digest = hashlib.sha256((folder / "new.pth").read_bytes()).hexdigest()
    return (folder / "new.pth").rename(folder / f"resnet20-{digest[:8]}.pth")


def test_weights_are_downloaded_once_and_cached(site, tmp_path):
    folder, address, handler = site
    file, model = published(folder), build_model("resnet20", 10)
    for _ in range(2):
        assert load_pretrained(model, f"{address}/{file.name}?download=1", cache=tmp_path / "cache") == []
    assert torch.equal(model.fc.weight, build_model("resnet20", 10, seed=1).fc.weight)
    assert handler.requests == 1
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [file.name]


def test_the_cache_is_the_one_that_torchvision_uses(site, tmp_path, monkeypatch):
    folder, address, _ = site
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    file = published(folder)
    load_pretrained(build_model("resnet20", 10), f"{address}/{file.name}")
    assert (tmp_path / "home" / "hub" / "checkpoints" / file.name).is_file()


def test_weights_of_torchvision_are_downloaded_the_same_way(site, tmp_path, monkeypatch):
    folder, address, _ = site
    file, model = published(folder), build_model("resnet20", 10)
    monkeypatch.setattr(pretrained, "torchvision_address", lambda name: f"{address}/{file.name}")
    assert load_pretrained(model, "torchvision", cache=tmp_path) == []
    assert torch.equal(model.fc.weight, build_model("resnet20", 10, seed=1).fc.weight)


def test_a_file_damaged_in_the_cache_is_downloaded_again(site, tmp_path):
    folder, address, _ = site
    file = published(folder)
    damaged = bytearray(file.read_bytes())
    damaged[5000] ^= 1
    (tmp_path / file.name).write_bytes(damaged)
    (note,) = load_pretrained(build_model("resnet20", 10), f"{address}/{file.name}", cache=tmp_path)
    assert note == f"{tmp_path / file.name} was damaged; downloaded it again"
    assert (tmp_path / file.name).read_bytes() == file.read_bytes()


def test_a_wrong_digest_is_refused_and_no_file_is_kept(site, tmp_path):
    folder, address, _ = site
    wrong = published(folder).rename(folder / "resnet20-0123456789.pth")
    model = build_model("resnet20", 10)
    before = model.fc.weight.clone()
    with pytest.raises(BadInput, match="SHA256 begins with 0123456789"):
        load_pretrained(model, f"{address}/{wrong.name}", cache=tmp_path / "cache")
    assert torch.equal(model.fc.weight, before)
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize(
    "name", ["resnet20.pth", "resnet20-best.pth", "resnet20-abc123.pth", "", "%2e%2e-0123abcd.pth"]
)
def test_an_address_without_a_digest_is_refused_before_any_request(site, tmp_path, name):
    _, address, handler = site
    with pytest.raises(BadInput, match="the file name must end in the first 8 or more hex digits of its SHA-256"):
        load_pretrained(build_model("resnet20", 10), f"{address}/{name}", cache=tmp_path)
    assert handler.requests == 0


@pytest.mark.parametrize("home", ["none", "not a folder"])
def test_without_a_home_the_weights_go_to_the_cache_and_no_folder_named_tilde_appears(
    site, tmp_path, monkeypatch, home
):
    folder, address, _ = site
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setattr(files.tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    (tmp_path / "file").touch()
    monkeypatch.delenv("TORCH_HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if home == "none":
        monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as for a user id that no list of users has
    else:
        monkeypatch.setenv("HOME", str(tmp_path / "file"))
    file = published(folder)
    load_pretrained(build_model("resnet20", 10), f"{address}/{file.name}")
    assert (tmp_path / "temporary" / f"resnetlab-{os.getuid()}" / file.name).is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "site", "temporary"]


def test_without_a_network_the_error_gives_the_steps_by_hand(tmp_path):
    address = "http://127.0.0.1:9/resnet20-0123abcd.pth"  # the discard port: connections are refused
    with pytest.raises(BadInput, match=f"By hand: download .* put it at {tmp_path}/resnet20-0123abcd.pth"):
        load_pretrained(build_model("resnet20", 10), address, cache=tmp_path)


def test_a_missing_file_on_the_server_is_an_error_with_its_status(site, tmp_path):
    _, address, _ = site
    with pytest.raises(BadInput, match="404"):
        load_pretrained(build_model("resnet20", 10), f"{address}/resnet20-0123abcd.pth", cache=tmp_path)
