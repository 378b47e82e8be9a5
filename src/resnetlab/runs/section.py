"""The base of every part of a config: frozen, strict, and plain in what it says of mistakes."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, ValidationError, model_validator

from resnetlab.errors import BadInput, LabError, printable


class Section(BaseModel):
    """A part of a config whose mistakes are told in one sentence with the path to the field."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    prefix: ClassVar[str] = ""

    def __init__(self, **values: Any) -> None:
        with self._in_a_sentence():
            super().__init__(**values)

    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]  # parts of a config are validated without it

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Self:
        with cls._in_a_sentence():
            return super().model_validate(obj, **options)

    @model_validator(mode="wrap")
    @classmethod
    def _validated(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        with cls._in_a_sentence():
            return handler(value)

    @classmethod
    @contextmanager
    def _in_a_sentence(cls) -> Iterator[None]:
        """Raise pydantic's ValidationError as a BadInput.

        Inside a validator pydantic turns the BadInput, a ValueError, into a ValidationError of the part around it.
        """
        try:
            yield
        except ValidationError as error:
            raise BadInput("; ".join(map(cls._sentence, error.errors(include_url=False)))) from error

    @classmethod
    def _sentence(cls, error: Any) -> str:
        if isinstance(said := error.get("ctx", {}).get("error"), LabError):
            return str(said)
        if not error["loc"]:  # a rule between fields, or the section is no table at all
            return f"{cls.prefix.rstrip('.') or 'config'} {_plainly(error['msg']).split(' or instance')[0]}"
        path = cls.prefix + ".".join(map(str, error["loc"]))
        if error["type"] == "extra_forbidden":
            near = difflib.get_close_matches(str(error["loc"][0]), cls.model_fields, n=1)
            hint = f"did you mean {cls.prefix}{near[0]}?" if near else f"there are {', '.join(cls.model_fields)}"
            return f"unknown setting {printable(path)[:100]}; {hint}"
        return f"{printable(path)} is {printable(repr(error['input']))[:100]}, but {_plainly(error['msg'])}"


def _plainly(message: str) -> str:
    """pydantic's "Input should be greater than 0" inside a sentence of ours."""
    return message.removeprefix("Value error, ").replace("Input should", "must", 1)
