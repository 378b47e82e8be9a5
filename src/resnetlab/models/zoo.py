"""Every architecture by name: the paper's Table 1 and Section 4.2, and their successors. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from resnetlab.errors import BadInput, unknown

UNITS = ("basic", "bottleneck", "plain", "preact", "pooled")
STEMS = ("imagenet", "cifar", "whitened")
SHORTCUTS = ("A", "B", "C")  # zero-pad, projection where the shape changes, projection everywhere (He et al. 2015, 3.3)
LARGEST_FOR_CIFAR_STEM = 64  # pixels; above it the 7x7/2 stem and its pooling save more than they lose
MOST_STAGES, MOST_UNITS, WIDEST = 8, 2048, 8192  # a description read from a file must not take hours to build


@dataclass(frozen=True)
class Architecture:
    """The description of a network as plain data, like one column of Table 1 (He et al. 2015).

    `shortcut` has no effect on plain and pooled units. `groups` and `group_width` are for the bottleneck only: in a
    stage of 64 channels its 3x3 convolution has `groups` groups of `group_width` channels; later stages widen it.

    Raises `BadInput` for values that describe no network.

    >>> Architecture("basic", (2, 2, 2, 2)).to_json()["units_per_stage"]
    [2, 2, 2, 2]
    """

    unit: str
    units_per_stage: tuple[int, ...]
    width: int = 64  # channels of the first stage; every later stage doubles it
    widths: tuple[int, ...] = ()  # the channels of each stage, if they do not double
    stem: str = "imagenet"
    shortcut: str = "B"
    groups: int = 1
    group_width: int = 64
    source: str = field(default="", compare=False)  # the paper and the section or table; ignored by ==

    def __post_init__(self) -> None:
        for kind, given, allowed in (
            ("unit", self.unit, UNITS),
            ("stem", self.stem, STEMS),
            ("shortcut", self.shortcut, SHORTCUTS),
        ):
            if given not in allowed:
                raise unknown(kind, str(given), allowed)
        stages = self.units_per_stage
        if not isinstance(stages, tuple) or not all(map(is_count, stages)):
            raise BadInput(f"units_per_stage is {stages!r}; give whole numbers from 1 up, one per stage")
        if not 1 <= len(stages) <= MOST_STAGES or sum(stages) > MOST_UNITS:
            raise BadInput(f"units_per_stage {stages!r}: 1 to {MOST_STAGES} stages and {MOST_UNITS} units are allowed")
        for name in ("width", "groups", "group_width"):
            value = getattr(self, name)
            if not is_count(value) or value > WIDEST:
                raise BadInput(f"{name} is {value!r}; give a whole number from 1 to {WIDEST}")
        if not isinstance(self.widths, tuple) or not all(is_count(width) and width <= WIDEST for width in self.widths):
            raise BadInput(f"widths is {self.widths!r}; give whole numbers from 1 to {WIDEST}, one per stage")
        if self.widths and len(self.widths) != len(stages):
            raise BadInput(f"widths {self.widths!r} and units_per_stage {stages!r} have different numbers of stages")
        if self.unit != "bottleneck" and (self.groups, self.group_width) != (1, 64):
            raise BadInput(f"groups and group_width belong to the bottleneck; the {self.unit} unit has neither")
        if self.width * self.group_width < 64:
            raise BadInput(f"width {self.width} with group_width {self.group_width} leaves no channel inside a unit")
        if not isinstance(self.source, str):
            raise BadInput(f"source is {self.source!r}; give a text")

    def channels(self, stage: int) -> int:
        """The channels of a stage, numbered from 0, before the unit's expansion."""
        return self.widths[stage] if self.widths else self.width * 2**stage

    @property
    def unit_options(self) -> dict[str, int]:
        """The arguments of the unit's constructor besides channels, stride and shortcut."""
        return {"groups": self.groups, "group_width": self.group_width} if self.unit == "bottleneck" else {}

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON types."""
        return asdict(self) | {"units_per_stage": list(self.units_per_stage), "widths": list(self.widths)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Architecture:
        """Build an architecture from the result of `to_json`. Raises `BadInput` for wrong keys or values.

        >>> Architecture.from_json(ARCHITECTURES["resnet34"].to_json()) == ARCHITECTURES["resnet34"]
        True
        """
        if not isinstance(data, Mapping):
            raise BadInput(f"an architecture is an object with named fields, not {data!r}")
        known = [entry.name for entry in fields(cls)]
        for key in data:
            if key not in known:
                raise unknown("field of an architecture", str(key), known)
        for key in ("unit", "units_per_stage"):
            if key not in data:
                raise BadInput(f"an architecture has no {key!r}; its fields are {', '.join(known)}")
        lists = {name: tuple(value) for name, value in data.items() if isinstance(value, list)}
        return cls(**{**data, **lists})


def is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


# fmt: off
IMAGENET = {
    #                         unit          units per stage                                 10^6 parameters, 10^9 MACs
    "resnet18":  Architecture("basic",      (2, 2,  2, 2), source="He 2015, Table 1"),     # 11.7    1.8
    "resnet34":  Architecture("basic",      (3, 4,  6, 3), source="He 2015, Table 1"),     # 21.8    3.7
    "resnet50":  Architecture("bottleneck", (3, 4,  6, 3), source="He 2015, Table 1"),     # 25.6    4.1
    "resnet101": Architecture("bottleneck", (3, 4, 23, 3), source="He 2015, Table 1"),     # 44.5    7.8
    "resnet152": Architecture("bottleneck", (3, 8, 36, 3), source="He 2015, Table 1"),     # 60.2   11.5
}
# fmt: on

# Section 4.2: three stages of n units at 16, 32 and 64 channels make 6n + 2 layers.
N_OF_CIFAR = {20: 3, 32: 5, 44: 7, 56: 9, 110: 18}


def _cifar(n: int, unit: str, shortcut: str, source: str) -> Architecture:
    return Architecture(unit, (n, n, n), width=16, stem="cifar", shortcut=shortcut, source=source)


CIFAR = {f"resnet{d}": _cifar(n, "basic", "A", "He 2015, 4.2 and Table 6") for d, n in N_OF_CIFAR.items()}

# The same networks without shortcuts, for comparison.
PLAIN = {
    f"plain{d}": replace(IMAGENET[f"resnet{d}"], unit="plain", source="He 2015, 4.1 and Table 2") for d in (18, 34)
} | {f"plain{d}": _cifar(n, "plain", "A", "He 2015, 4.2 and Fig. 6") for d, n in N_OF_CIFAR.items() if d <= 56}

# The projection where the shape changes is that of the authors' published code (resnet-1k-layers).
PREACT = {
    "preact_resnet18": replace(IMAGENET["resnet18"], unit="preact", source="He 2016, Fig. 4e"),
} | {f"preact_resnet{d}": _cifar(n, "preact", "B", "He 2016, Fig. 4e and Table 3") for d, n in N_OF_CIFAR.items()}

WIDER = {
    "resnext50_32x4d": replace(IMAGENET["resnet50"], groups=32, group_width=4, source="Xie 2017, Table 1"),
    "resnext101_32x8d": replace(IMAGENET["resnet101"], groups=32, group_width=8, source="Xie 2017, 5.1; Mahajan 2018"),
    "wide_resnet50_2": replace(IMAGENET["resnet50"], group_width=128, source="Zagoruyko 2016, Table 8"),
    "wide_resnet101_2": replace(IMAGENET["resnet101"], group_width=128, source="Zagoruyko 2016; torchvision"),
}

# Ours, for time to accuracy: after Jordan 2024 ("94% on CIFAR-10 in 3.29 seconds"), whose units add no shortcut.
FAST = {"fast_resnet8": Architecture("pooled", (1, 1, 1), widths=(64, 256, 256), stem="whitened", source="ours")}

ARCHITECTURES: dict[str, Architecture] = IMAGENET | CIFAR | PLAIN | PREACT | WIDER | FAST


def resolve(
    name: str, *, stem: str = "auto", image_size: int | None = None, shortcut: str | None = None
) -> Architecture:
    """Return the architecture called `name` with the given stem and shortcuts.

    Stem "auto" depends on `image_size`: the cifar stem up to 64 px, the imagenet stem above, and the stem of the table
    if there is no `image_size`. A whitened stem is part of its network and is kept.

    Raises `BadInput` for an unknown name, stem or shortcut.

    >>> resolve("resnet18", image_size=32).stem, resolve("resnet18", image_size=224).stem, resolve("resnet20").stem
    ('cifar', 'imagenet', 'cifar')
    """
    if name not in tuple(ARCHITECTURES):
        raise unknown("model", name, ARCHITECTURES)
    architecture = ARCHITECTURES[name]
    if image_size is not None and not is_count(image_size):
        raise BadInput(f"image size {image_size!r}; give the side in pixels, a whole number from 1 up")
    if stem not in ("auto", *STEMS):
        raise unknown("stem", stem, ("auto", *STEMS))
    if shortcut is not None and architecture.unit in ("plain", "pooled"):
        has = "is a plain net and has no shortcuts" if architecture.unit == "plain" else "has shortcuts of its own"
        raise BadInput(f"{name} {has}; remove the shortcut option ({shortcut!r})")
    if stem == "auto" and (image_size is None or architecture.stem == "whitened"):
        stem = architecture.stem
    elif stem == "auto":
        stem = "cifar" if image_size is not None and image_size <= LARGEST_FOR_CIFAR_STEM else "imagenet"
    return replace(architecture, stem=stem, shortcut=architecture.shortcut if shortcut is None else shortcut)
