"""The bundle: the folder that export writes and the runtime reads, and its description of the preprocessing."""

from .bundle import CLASS_MATRIX, DEMO, Bundle
from .manifest import MANIFEST, Manifest
from .preprocessing import Preprocessing
from .writing import write_bundle

__all__ = ["CLASS_MATRIX", "DEMO", "MANIFEST", "Bundle", "Manifest", "Preprocessing", "write_bundle"]
