"""Score a trained model, read from its file, on a split in fp32."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resnetlab.data.loaders import EvalBatches
from resnetlab.data.tree import require_outside
from resnetlab.errors import BadInput, NonFinite, printable, unknown
from resnetlab.evaluation.access_log import Access, AccessLog
from resnetlab.evaluation.calibration import Temperature
from resnetlab.evaluation.evaluate import probabilities
from resnetlab.evaluation.selective import rejections_in
from resnetlab.evaluation.tta import VIEWS, Views
from resnetlab.files import as_path, as_text
from resnetlab.inference.hub import is_on_hub
from resnetlab.inference.model_file import Model, read_model
from resnetlab.inference.sources import Run, model_path, model_source
from resnetlab.interpret.embedding import MOST, catching_features, spread
from resnetlab.models.resnet import ResNet
from resnetlab.runs.build import EVAL_BATCH
from resnetlab.runs.completion import store_test_score
from resnetlab.runs.evaluation_files import Evaluation, write_evaluation
from resnetlab.runs.folder import SHARED_ACCESS_LOG, RunFolder
from resnetlab.runs.log import RunLog
from resnetlab.runs.provenance import command, now
from resnetlab.runs.report_samples import ReportSamples
from resnetlab.runs.saved_data import BALANCE, balanced_classes
from resnetlab.runs.scoring_data import SPLITS, ScoringData, SplitName, open_scored, run_of
from resnetlab.runs.stop import Interruptible, StopRequest
from resnetlab.runtime import Runtime, isolated, start


@dataclass(frozen=True)
class ScoredSplit:
    """A model's probabilities and features on a split, from which the files of an evaluation are written."""

    evaluation: Evaluation
    network: ResNet
    features: Tensor  # (M, C), of the images `spread(len(split), MOST)`
    runtime: Runtime

    def write(self, folder: Path, *, all_probabilities: bool = False) -> dict[str, Any]:
        """Write tables, figures and metrics.json into a folder, and return the content of metrics.json."""
        facts = self.evaluation.facts
        if facts["split"] == "val" and facts["tta"] == "none":  # a report shows validation images only
            ReportSamples.of(self.evaluation, self.network, self.features, self.runtime).write(folder)
        return write_evaluation(folder, self.evaluation, all_probabilities=all_probabilities)


@isolated(gradients=True)
def evaluate(
    source: str | os.PathLike[str] | Run,
    data: str | os.PathLike[str] | None = None,
    split: SplitName = "val",
    *,
    tta: Views = "none",
    out: Path | str | None = None,
    all_probabilities: bool = False,
    device: str = "auto",
    allow_changed_data: bool = False,
) -> dict[str, Any]:
    """Score a run's best weights, or a model file, on a split. Returns the content of metrics.json.

    `source` is what `load` accepts: a path, a run, the name of a run in the folder `runs`, or "hf:owner/name".

    A run is scored on the images that were recorded when it began, and tables and figures are written to
    `evaluation/<split>` in its folder (`<split>-<tta>` with test-time augmentation). If any of its images is new, gone,
    in another class or changed, it is not scored; with `allow_changed_data` the recorded images that are still the same
    are, and the files are written to `evaluation/changed-<split>`.

    Other `data`, a folder of classes, is scored whole, or its folder of the split if it has one. If `data` has exactly
    the images of the run, it is the run's data at another place, and the recorded split is scored. For other data, or a
    model file, files are written only if `out` is given. A use of a test split is recorded in its access log.

    In a process that was forked after resnetlab was imported, the CPU computes with one thread.

    Raises BadInput if the model or the data cannot be used, NonFinite if the logits are not finite.

    >>> evaluate("runs/quickstart-001", split="val")["accuracy"]  # doctest: +SKIP
    """
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    if tta not in tuple(VIEWS):
        raise unknown("tta", tta, VIEWS)
    path, folder = model_source(source), None if out is None else as_path(out, "out")
    data = None if data is None else as_text(data, "data")
    model, run = read_model(model_path(path)), run_of(path)
    if data is None and (run is None or not path.is_dir()):
        raise BadInput("a model file has no data to be scored on; add `data`")
    require_outside(out, data if data is not None else run.config.data.name if run is not None else "")
    opened = open_scored(run, model, data, split, allow_changed=allow_changed_data)
    log = RunLog()
    for note in opened.notes:
        log.info(f"note     {note}")
    if tta != "none" and not had_flips(model):
        log.warning(
            f"tta {tta} averages over mirror images, but the model was trained without them (augment.flip is off): "
            "the scores may be worse than without tta"
        )
    if folder is None and run is not None and path.is_dir() and opened.is_own:
        folder = run.evaluation(split, tta, changed=opened.is_changed)
    elif folder is not None:
        require_other_folder(folder, run, opened, split, tta)
    fitted = None if split == "val" else validation_scores(run, model, tta)
    scored = score_split(model, opened, start(device, "fp32").device, fitted=fitted, tta=tta)
    if split == "test":
        record_access(access_log_of(source), scored.evaluation, log)
    if folder is None:
        return scored.evaluation.metrics
    if split == "test" and tta == "none" and run is not None and folder.resolve() == run.evaluation("test").resolve():
        store_test_score(run, scored.evaluation.metrics, log)
    return scored.write(folder, all_probabilities=all_probabilities)


def had_flips(model: Model) -> bool:
    """False if the model is known to be trained without mirrored images. Imported and older ones are not known."""
    settings = model.provenance.get("settings")
    augment = settings.get("augment") if isinstance(settings, dict) else None
    return not isinstance(augment, dict) or augment.get("flip") is not False


def require_other_folder(folder: Path, run: RunFolder | None, data: ScoringData, split: str, tta: str) -> None:
    """Raise BadInput if scores of other images, or of another kind, would replace those of the run."""
    if run is None or folder.resolve().parent != (run.path / "evaluation").resolve():
        return
    if not data.is_own or folder.resolve() != run.evaluation(split, tta, changed=data.is_changed).resolve():
        raise BadInput(f"{printable(folder)} is for other scores of the run; give another `out`")


def score_split(
    model: Model,
    data: ScoringData,
    device: torch.device,
    *,
    fitted: Mapping[str, Any] | None = None,
    tta: Views = "none",
    stop: StopRequest | None = None,
) -> ScoredSplit:
    """The probabilities of a model on a split, computed in fp32.

    Temperature and rejections are fitted on validation; on the test split those in `fitted` are used, the scores of
    validation. Raises BadInput if the data has other classes than the model, NonFinite if the logits are not finite,
    and StopRequested.
    """
    require_same_classes(model.classes, data.classes)
    runtime, split = Runtime(device), data.split
    batches = EvalBatches(split, data.preprocessing, EVAL_BATCH, runtime)
    stoppable = Interruptible(batches, stop or StopRequest())
    network = runtime.place(model.network)
    with catching_features(network, spread(len(split), MOST)) as features:
        scores, labels = probabilities(network, stoppable, runtime, tta)
    not_finite = int((~np.isfinite(scores).all(1)).sum())
    if not_finite:
        raise NonFinite(f"the network's output is NaN or infinite for {not_finite:,} of {len(scores):,} images")
    facts = {
        "split": data.split_name,
        "data": data.name,
        "model": model.network.name,
        "tta": tta,
        "weights_digest": model.weights_digest,
        "split_digest": split.digest,
        "contents_digest": split.contents_digest,
        "skipped_images": data.unread,
        **data.facts,
    }
    if data.split_name == "val":
        temperature: Temperature | None = Temperature.fitted(scores, labels, "val", split.digest)
        rejections = None
    else:
        temperature = temperature_of(fitted or {})
        rejections = rejections_in((fitted or {}).get("selective"))
    evaluation = Evaluation(scores, split, model.classes, data.preprocessing, facts, temperature, rejections)
    return ScoredSplit(evaluation, network, torch.cat(features), runtime)


def record_access(access_log: AccessLog, evaluation: Evaluation, log: RunLog) -> None:
    """Record the use of a test split; call this before its scores are shown. A failure is logged."""
    facts = {name: evaluation.facts[name] for name in ("data", "model", "tta", "weights_digest", "split_digest")}
    images = len(evaluation.split)
    for failure in access_log.record(
        Access(now("microseconds"), tuple(command()), access_log.run, images=images, **facts)
    ):
        log.warning(failure)


def access_log_of(source: str | os.PathLike[str] | Run) -> AccessLog:
    """The access log of a run or model file; for a file outside a run, a log beside it.

    For a model on the Hub it is in the working directory: nothing is written into huggingface_hub's cache.
    """
    if isinstance(source, str | os.PathLike) and is_on_hub(os.fspath(source)):
        return AccessLog(None, (Path(SHARED_ACCESS_LOG),))
    path = model_source(source)
    run = run_of(path)
    return AccessLog(None, (path.resolve().parent / SHARED_ACCESS_LOG,)) if run is None else run.access_log


def validation_scores(run: RunFolder | None, model: Model, tta: Views = "none") -> dict[str, Any] | None:
    """The scores of the same weights, in the same way, on a run's validation split; None if there are none."""
    scores = run.final_metrics("val", tta) if run else None
    return scores if scores and scores.get("weights_digest") == model.weights_digest else None


def temperature_of(scores: Mapping[str, Any]) -> Temperature | None:
    """The temperature in the content of metrics.json."""
    found = scores.get("calibration")
    return Temperature.from_json(found.get("temperature")) if isinstance(found, dict) else None


def test_set_line(access_log: AccessLog, scores: Mapping[str, Any]) -> str:
    """A sentence with the number of times that the test set of these scores was used."""
    return access_log.count(scores["weights_digest"], scores["split_digest"]).sentence()


def balance_columns(source: str | os.PathLike[str] | Run, classes: Sequence[str]) -> dict[str, list[str]]:
    """Return what data.balance did to each class in the training of a run: columns of text by their heading.

    There are none if nothing was balanced, or for a model file without its run.
    """
    is_remote = isinstance(source, str | os.PathLike) and is_on_hub(os.fspath(source))
    run = None if is_remote else run_of(model_source(source))
    found = None if run is None else balanced_classes(run, classes)
    if run is None or found is None:
        return {}
    counts, factors = zip(*found, strict=True)
    return {
        "training images": [f"{count:,}" for count in counts],
        BALANCE[run.config.data.balance]: [f"{factor:.2f}" for factor in factors],
    }


def require_same_classes(of_model: Sequence[str], of_data: Sequence[str]) -> None:
    """Raise BadInput, with the difference, unless both have the same classes in the same order."""
    if tuple(of_model) == tuple(of_data):
        return
    missing = sorted(set(of_model) - set(of_data))
    extra = sorted(set(of_data) - set(of_model))
    difference = [
        f"{what}: {', '.join(map(printable, names))}"
        for what, names in (("missing in the data", missing), ("unknown to the model", extra))
        if names
    ]
    raise BadInput(f"the data and the model have different classes ({'; '.join(difference) or 'another order'})")
