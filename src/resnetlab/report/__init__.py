"""HTML pages: the report of a run and the comparison of several. The package is callable: `resnetlab.report(run)`.

>>> import resnetlab
>>> resnetlab.report("runs/quickstart-001")  # doctest: +SKIP
PosixPath('runs/quickstart-001/report.html')
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType


class CallablePackage(ModuleType):
    """This package, which shares its name with the public function."""

    def __call__(self, run: Path | str, out: Path | str | None = None) -> Path:
        """Write the report of a run and return its path; see `resnetlab.report.write.write_report`."""
        from resnetlab.report.write import write_report

        return write_report(run, out)


sys.modules[__name__].__class__ = CallablePackage
