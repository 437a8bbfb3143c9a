"""What happens to a face crop's pixels before the encoder. It belongs to the checkpoint, so the bundle carries it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ..errors import DferError


@dataclass(frozen=True)
class Preprocessing:
    """How an aligned RGB crop becomes the encoder's input; all of it but the crop is done inside the graph.

    size: side in pixels of the square crop that the host hands over (uint8 RGB).
    encoder_size: side the encoder expects; crops are upsampled (bilinear) inside the graph when it differs.
    mean, std: per RGB channel, for pixels scaled to [0, 1].
    grey: replace the three channels by their luma first (models taught on grey photographs).
    """

    size: int
    encoder_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    grey: bool = False

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Preprocessing:
        """Rebuild from `to_json`'s dict. Raises DferError when a field is missing, unknown or out of range."""
        try:
            result = cls(
                size=int(values["size"]),
                encoder_size=int(values["encoder_size"]),
                mean=_triple(values["mean"]),
                std=_triple(values["std"]),
                grey=bool(values["grey"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DferError(f"bad preprocessing description {values!r}: {error}") from error
        if not (8 <= result.size <= 1024 and 8 <= result.encoder_size <= 1024 and min(result.std) > 0):
            raise DferError(f"bad preprocessing description {values!r}: sizes must be 8..1024 and std positive")
        return result


def _triple(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
