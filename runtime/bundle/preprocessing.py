"""Preprocessing of a face crop's pixels for the encoder. It belongs to the checkpoint, so the bundle carries it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ..errors import DferError


@dataclass(frozen=True)
class Preprocessing:
    """How an aligned RGB crop becomes the encoder's input; everything but the cropping is done inside the graph.

    size: side in pixels of the square crop that the host hands over (uint8 RGB).
    encoder_size: side the encoder expects; crops are upsampled (bilinear) inside the graph when it differs.
    mean, std: per RGB channel, for pixels scaled to [0, 1].
    grey: replace the three channels by their luma first (for models trained on greyscale photographs).
    patches: how many patches a vision transformer reads, those nearest the middle of the face; None for all.
    """

    size: int
    encoder_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    grey: bool = False
    patches: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the fields; without `patches` if all are read, as in older files."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Preprocessing:
        """Rebuild from `to_json`'s dict. Raises DferError when a field is missing, unknown or out of range."""
        try:
            if not isinstance(values["grey"], bool):
                raise TypeError("grey must be true or false")
            return cls(
                size=whole(values["size"], 8, 1024),
                encoder_size=whole(values["encoder_size"], 8, 1024),
                mean=_triple(values["mean"], -1e3),
                std=_triple(values["std"], 1e-6),
                grey=values["grey"],
                patches=None if (count := values.get("patches")) is None else whole(count, 1, 4096),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DferError(f"bad preprocessing description {repr(values)[:200]}: {error}") from error


def whole(value: Any, lowest: int, highest: int) -> int:
    """Return a JSON whole number within bounds; TypeError or ValueError for anything else, even true or 3.0."""
    if type(value) is not int:
        raise TypeError(f"{repr(value)[:40]} is no whole number")
    if not lowest <= value <= highest:
        raise ValueError(f"{value:g} is not in {lowest}..{highest}")
    return value


def real(value: Any, lowest: float, highest: float) -> float:
    """Return a finite number of a JSON file within bounds as float; TypeError or ValueError for anything else."""
    if type(value) not in (int, float):
        raise TypeError(f"{repr(value)[:40]} is no number")
    if not lowest <= value <= highest:
        raise ValueError(f"{value:g} is not in {lowest:g}..{highest:g}")
    return float(value)


def _triple(values: Any, lowest: float) -> tuple[float, float, float]:
    red, green, blue = (real(value, lowest, 1e3) for value in values)
    return red, green, blue
