"""The folder that export writes and the runtime reads, and how it says that pixels are prepared."""

from .bundle import CLASS_MATRIX, DEMO, MANIFEST, Bundle, Manifest, write_bundle
from .preprocessing import Preprocessing

__all__ = ["CLASS_MATRIX", "DEMO", "MANIFEST", "Bundle", "Manifest", "Preprocessing", "write_bundle"]
