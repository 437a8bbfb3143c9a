"""The bundle: the folder that export writes and the runtime reads. Everything in it is checked before use."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import BundleError, DferError
from ..storage import locked, readable
from .graph_file import FLOAT, UINT8, TensorType, check_graph
from .manifest import MANIFEST, Manifest, read_manifest

CLASS_MATRIX = "class_matrix.npy"
DEMO = Path(__file__).parents[1] / "assets" / "demo.dfer"


@dataclass(frozen=True)
class Bundle:
    """A bundle as `Bundle.open` returns it. digests: required sha256 of every listed file, by name."""

    path: Path
    manifest: Manifest
    digests: Mapping[str, str]

    @property
    def name(self) -> str:
        """The folder's name, as text for result files."""
        return readable(self.path.name)

    @classmethod
    def open(cls, path: str | Path) -> Bundle:
        """Open the bundle in the folder `path`, after checking its manifest and the sizes of the files it lists.

        A file's content is checked when it is read, so that a start reads only the files it runs.
        Passing these checks does not make a bundle trustworthy: see docs/security.md.
        Raises DferError, in one line, for the first thing that is wrong.

        >>> from dfer.runtime import Bundle
        >>> from dfer.runtime.bundle import DEMO
        >>> Bundle.open(DEMO).manifest.classes[:3]
        ('happiness', 'sadness', 'neutral')
        """
        folder = Path(path)
        if folder.name in ("", ".."):  # Path(".") has no name, and messages need one
            folder = folder.resolve()
        if beside(folder, "writing").is_dir() and not folder.is_dir():
            with suppress(OSError), locked(beside(folder, "lock")):
                bring_back(folder)
        if not folder.is_dir():
            told = "no such folder"
            if folder.exists():
                told = "is a file, and a bundle is a folder; dfer-export --ckpt makes one of a checkpoint"
            raise DferError(f"bundle {folder}: {told}")
        manifest, listed = read_manifest(_inside(folder, MANIFEST))
        for name, (size, _) in listed.items():
            if (found := _inside(folder, name).stat().st_size) != size:
                raise DferError(
                    f"bundle {folder}: {name} has {found} bytes, not the {size} that were exported; copy it again"
                )
        for name in (*_graphs(manifest), CLASS_MATRIX):
            if name not in listed:
                raise DferError(f"bundle {folder}: the manifest lists no {name}")
        return cls(folder, manifest, {name: digest for name, (_, digest) in listed.items()})

    @property
    def digest(self) -> str:
        """sha256 of the manifest now on disk, which lists those of all other files: the bundle's identity.

        Raises DferError when it cannot be read.
        """
        try:
            return hashlib.sha256((self.path / MANIFEST).read_bytes()).hexdigest()
        except OSError as error:
            raise DferError(f"bundle {self.path}: {MANIFEST} cannot be read ({error.strerror})") from error

    def read(self, name: str) -> bytes:
        """Return the bytes of a listed file after checking its sha256 and, for a graph, that it is plain ONNX with the
        input and output that the manifest gives. Raises BundleError otherwise."""
        data = _inside(self.path, name).read_bytes()
        if hashlib.sha256(data).hexdigest() != self.digests[name]:
            raise BundleError(
                f"bundle {self.path}: {name} is not the file that was exported (sha256 differs); copy it again"
            )
        if name in (graphs := _graphs(self.manifest)):
            try:
                check_graph(io.BytesIO(data), *graphs[name])
            except DferError as error:
                raise BundleError(
                    f"bundle {self.path}: {name} is not a graph that is run: {error}; export it again"
                ) from error
        return data

    def size(self, name: str) -> int:
        """Return the size of a listed file in bytes. Raises DferError when it no longer exists."""
        return _inside(self.path, name).stat().st_size

    def verify(self) -> None:
        """Read and check every file. Raises BundleError for the first that is wrong."""
        for name in self.digests:
            self.read(name)

    def class_matrix(self) -> NDArray[np.float32]:
        """Return the text features of the classes, float32 [C,D]: the numbers folded into the head."""
        shape = len(self.manifest.classes), self.manifest.width
        data = self.read(CLASS_MATRIX)
        numbers = 4 * shape[0] * shape[1]
        # NumPy's own reader would trust the header; the expected shape is known here.
        if len(data) < numbers or not data.startswith(b"\x93NUMPY") or b"'<f4'" not in data[:-numbers]:
            raise DferError(f"bundle {self.path}: {CLASS_MATRIX} is not float32 of {shape[0]}×{shape[1]}")
        return np.frombuffer(data[-numbers:], "<f4").reshape(shape)


def beside(folder: Path, kind: str) -> Path:
    """Return the path of a bundle's lock file ("lock") or of the folder it is written in ("writing")."""
    folder = folder if folder.name else folder.resolve()
    return folder.parent / f".{folder.name}.{kind}"


def bring_back(folder: Path) -> None:
    """Restore a bundle that a killed writer had moved aside. The caller must hold the lock."""
    old = beside(folder, "writing") / "old"
    if not folder.exists() and (old / MANIFEST).is_file():
        old.replace(folder)


def _graphs(manifest: Manifest) -> dict[str, tuple[TensorType, TensorType]]:
    """Return every graph that some precision needs on some provider, with its input and output."""
    side = manifest.preprocessing.size
    encoder = TensorType("frames", UINT8, (side, side, 3)), TensorType(None, FLOAT, (manifest.width,))
    window = TensorType("features", FLOAT, (manifest.window, manifest.width))
    graphs: dict[str, tuple[TensorType, TensorType]] = {}
    for precision, entry in manifest.precisions.items():
        for provider in (*manifest.encoders(precision), *entry.get("files", {}).get("heads", {})):
            name, head = manifest.graphs(precision, provider)
            graphs[name] = encoder
            graphs[head] = window, TensorType(None, FLOAT, (len(manifest.classes),))
    return graphs


def _inside(folder: Path, name: str) -> Path:
    """Return the path of the file `name`; refuse anything but a regular file, and links that leave the folder."""
    file = folder / name
    try:
        if file.is_symlink() and file.resolve().parent != folder.resolve():
            raise DferError(f"bundle {folder}: {name} is a link that leads out of the folder")
        if file.is_file():
            return file
        if file.exists():
            raise DferError(f"bundle {folder}: {name} is not a regular file")
    except (OSError, RuntimeError, ValueError) as error:  # overlong names, circular links, null bytes
        raise DferError(f"bundle {folder}: {name[:80]!r} cannot be read ({error})") from error
    if name == MANIFEST:
        raise DferError(f"bundle {folder}: no {MANIFEST}; is this a bundle?")
    raise DferError(f"bundle {folder}: {name} is missing")
