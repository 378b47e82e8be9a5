"""Fail unless the demo's run scored at least 98 % on its test split, and drew its pictures."""

import json
import re
import sys
from pathlib import Path

log = Path(sys.argv[1]).read_text()
found = re.search(r"the run is in (\S+):", log)
assert found, "the demo did not name its run folder"
run = Path(found.group(1))
accuracy = json.loads((run / "evaluation/test/metrics.json").read_text())["accuracy"]
for picture in ("curves.png", "evaluation/test/samples.png", "evaluation/test/confusion_matrix.png"):
    assert (run / picture).stat().st_size > 10_000, f"{picture} is missing or empty"
print(f"demo: test accuracy {accuracy:.2%}")
assert accuracy >= 0.98, "the demo must reach 98 % on its test split"
