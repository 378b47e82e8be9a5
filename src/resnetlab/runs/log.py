"""The log of a run: each message goes to `logging`, and to log.txt in the run's folder."""

from __future__ import annotations

import errno
import logging
from pathlib import Path

from resnetlab.errors import printable

LOGGER = logging.getLogger("resnetlab.runs")


class Lines(logging.Formatter):
    """Formats a message as a line; a warning begins with "warning"."""

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        return f"warning  {message}" if record.levelno >= logging.WARNING else message


class RunLog:
    """Logs messages under the name "resnetlab.runs", and appends them to a file; without a file it only logs them."""

    def __init__(self, file: Path | None = None) -> None:
        self.file = file

    def info(self, message: str) -> None:
        LOGGER.info("%s", printable(message))
        self.append(message)

    def warning(self, message: str) -> None:
        LOGGER.warning("%s", printable(message))
        self.append(f"warning  {message}")

    def append(self, line: str) -> None:
        """Add a line to the file. After a failure, which is logged, no further line is added."""
        if self.file is None:
            return
        try:
            if self.file.exists() and not self.file.is_file():  # opening a pipe waits for its reader
                raise OSError(errno.EINVAL, "it is not a regular file")
            with self.file.open("a", encoding="utf-8") as file:
                file.write(printable(line) + "\n")
        except OSError as error:  # a run continues without its log; checkpoints raise their own errors
            LOGGER.warning("%s could not be written: %s", printable(self.file), error.strerror)
            self.file = None


class SilentLog(RunLog):
    """Logs nothing: the messages are those of the main process."""

    def info(self, message: str) -> None: ...

    def warning(self, message: str) -> None: ...
