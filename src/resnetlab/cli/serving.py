"""The arguments of `resnetlab serve` as settings of the server, and warnings about them."""

from __future__ import annotations

import importlib
import ipaddress
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from resnetlab.errors import BadInput, printable

if TYPE_CHECKING:
    from resnetlab.cli.arguments import ServeArguments
    from resnetlab.inference.serve.settings import Settings

PACKAGES = ("starlette", "uvicorn", "httptools", "python_multipart", "prometheus_client")
LIMITS = {"workers": 64, "max_images": 100_000, "max_batch": 4096, "max_mb": 10_000, "timeout": 3600}


def require_packages() -> None:
    """Raise BadInput unless the packages of the extra are installed."""
    for package in PACKAGES:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise BadInput(f"serving needs {package}: pip install 'resnetlab[serve]'") from error


def named_models(models: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """Return the sources of the models by name. Raises BadInput if there is none, or two have one name.

    >>> named_models(["runs/birds-001", "fish.safetensors"], ["all=runs/both/best.safetensors"])
    {'birds-001': 'runs/birds-001', 'fish': 'fish.safetensors', 'all': 'runs/both/best.safetensors'}
    """
    pairs = [(name_of(model), model) for model in models]
    for text in names:
        name, equals, model = text.partition("=")
        if not name or not equals or not model:
            raise BadInput(f"--name is {printable(text)!r}; give a name and a model, as --name birds=birds.safetensors")
        pairs.append((name, model))
    if not pairs:
        raise BadInput("MODEL is missing: give a model file or the folder of a run")
    found: dict[str, str] = {}
    for name, model in pairs:
        if name in found:
            raise BadInput(
                f"{printable(found[name])} and {printable(model)} are both called {printable(name)!r}; give one "
                f"another name: --name NAME={printable(model)}"
            )
        found[name] = model
    return found


def name_of(model: str) -> str:
    """Return the name of a run folder, also for the best weights in it, or the name of a file without its suffix."""
    path = Path(model)
    if path.name == "best.safetensors":
        path = path.absolute().parent
    return (path.resolve().name if path.is_dir() else path.name.removesuffix(".safetensors")) or str(path)


def settings_of(given: ServeArguments) -> Settings:
    """Return the settings of the server. Raises BadInput for values that are out of range."""
    from resnetlab.inference.serve.settings import MB, Settings, read_token

    for name, highest in LIMITS.items():
        value = getattr(given, name)
        if not 0 < value <= highest:
            raise BadInput(f"--{name.replace('_', '-')} is {value:g}; it must be more than 0 and at most {highest:,}")
    if not 0 <= given.port <= 65535:
        raise BadInput(f"--port is {given.port}; it must be 0..65535")
    if given.reject is not None and not 0 < given.reject < 1:
        raise BadInput(f"--reject is {given.reject:g}; a risk lies between 0 and 1")
    largest = round(given.max_mb * MB)
    return Settings(
        hosts=tuple(dict.fromkeys([*Settings.hosts, *names_of(given)])),
        any_address=is_any(given.host),
        token=None if given.token_file is None else read_token(given.token_file),
        reject=given.reject,
        max_body=largest,
        max_bodies=max(Settings.max_bodies, 4 * largest),
        max_images=given.max_images,
        max_batch=given.max_batch,
        body_seconds=given.timeout,
        access_log=not given.no_access_log,
    )


def names_of(given: ServeArguments) -> Iterator[str]:
    """Yield the names that a Host header may have. Raises BadInput for one that no Host header has."""
    from resnetlab.inference.serve.settings import host_name

    for text in (given.host, *given.allow_host):
        name = host_name(text)
        if name is not None:
            yield name
        elif text != given.host:
            raise BadInput(
                f"--allow-host is {printable(text)!r}; give a name such as birds.example.org, without https:// and *"
            )


def warnings_of(given: ServeArguments) -> Iterator[str]:
    """Yield what a person should know before others can reach the server."""
    if is_loopback(given.host):
        return
    if given.token_file is None:
        yield f"everybody who can reach {printable(given.host)} can use this server; --token-file FILE requires a token"
    yield "requests are not encrypted; put a proxy with TLS in front of the server if others can read the network"


def is_any(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return host in ("", "0")


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
