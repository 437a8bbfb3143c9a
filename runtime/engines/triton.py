"""An encoder on a Triton server, shared by many streams: KServe's protocol, version 2, over HTTP with binary tensors.

The head runs here, on the CPU, since its input, a window, follows the media time of one source.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import ssl
import threading
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection, IncompleteRead
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

from ..errors import DferError, EngineError, ParameterError
from .backend import Backend, Engine, Report, run_in_parts
from .ort import BACKENDS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..bundle import Bundle
    from .backend import Array

SCHEMES = {"triton": HTTPConnection, "triton+https": HTTPSConnection}
AUTHORIZATION = "DFER_TRITON_AUTHORIZATION"
"""Environment variable with the value of the header `Authorization`, if a server requires one."""

_PORT = 8000  # Triton's default
_TIMEOUT = 10.0  # seconds for a response
_AWAY = 30.0  # seconds that a server may be unavailable, such as during a restart
_HEADER = "Inference-Header-Content-Length"
_DATATYPES = {"uint8": "UINT8", "float32": "FP32"}
_LARGEST_TEXT = 1 << 20  # bytes of a response's JSON


def version_of(digest: str, precision: str) -> str:
    """Return the version under which Triton serves the encoder of the bundle with this digest in a precision.

    Every response states its version, and so identifies the model.
    """
    return str(int(hashlib.sha256(f"{digest} {precision}".encode()).hexdigest()[:12], 16))


def backend_at(address: str) -> TritonBackend:
    """Return the backend of `triton://HOST[:PORT]/MODEL`, or `triton+https://…`, without contacting the server.

    Raises ParameterError for anything else.
    """
    try:
        place = urlsplit(address)
        port = place.port or _PORT
    except ValueError:
        place, port = urlsplit(""), 0
    model, host = place.path.strip("/"), place.hostname
    plain = model.isascii() and "/" not in model and not place.query
    if place.scheme not in SCHEMES or not (host and port and model and plain):
        raise ParameterError("provider", f"{address} is no address of a model; write triton://HOST:{_PORT}/MODEL")
    if place.username is not None or place.password is not None:
        raise ParameterError("provider", f"an address of Triton has no password in it; put it into ${AUTHORIZATION}")
    return TritonBackend(
        name=address,
        precisions=("int8", "fp16", "fp32"),
        install="",
        place=place._replace(netloc=f"[{host}]:{port}" if ":" in host else f"{host}:{port}"),
    )


@dataclass(frozen=True, kw_only=True)
class TritonBackend(Backend):
    """A model on a server. It is queried every time, since the server may have switched to another model.

    place: its address, with the port.
    """

    place: SplitResult

    def is_present(self) -> bool:
        return True

    def runs(self, precision: str) -> bool:
        with closing(ServedModel(self.place)) as server:
            return precision in ("fp32", server.precision)  # FP32: the head, which runs here

    def open(self, bundle: Bundle, graph: str, precision: str, threads: int | None, report: Report) -> Engine:
        with closing(ServedModel(self.place)) as server:  # not shared: responses come in the order of requests
            server.check(bundle.digest)
            served = server.precision
        if served not in bundle.manifest.precisions:
            raise EngineError(f"{self.name} serves the encoder in {served!r}, of which bundle {bundle.path} has none")
        encoder, head = bundle.manifest.graphs(served, self.name)
        if graph == head:
            (cpu,) = (backend for backend in BACKENDS if backend.name == "cpu")
            return cpu.open(bundle, graph, precision, threads, report)
        if graph != encoder:
            raise ParameterError("precision", f"{self.name} serves the encoder in {served}; ask for {served}")
        return TritonEngine(server, bundle, served, report)


class TritonEngine(Engine):
    """A bundle's encoder on a server. Calls are serialised over one connection.

    Each call waits for an unavailable server once, up to 30 seconds. A server with another model is an error.
    """

    def __init__(self, server: ServedModel, bundle: Bundle, precision: str, report: Report) -> None:
        self.provider = server.address
        self._server, self._digest, self._report = server, bundle.digest, report
        self._version, self._width = version_of(bundle.digest, precision), bundle.manifest.width
        self._lock = threading.Lock()

    def run(self, inputs: Mapping[str, Array]) -> dict[str, NDArray[np.float32]]:
        with self._lock:
            return run_in_parts(self._infer, inputs, self._server.largest)

    def _infer(self, inputs: Mapping[str, Array]) -> dict[str, NDArray[np.float32]]:
        try:
            return self._server.infer(inputs, self._version, self._width)
        except ServerAwayError:  # or it closed an idle connection, which it may
            self._server.wait(_AWAY, self._report)
            self._server.check(self._digest)
            return self._server.infer(inputs, self._version, self._width)

    def close(self) -> None:
        self._server.close()


class ServerAwayError(EngineError):
    """The server does not respond, or reports that it is temporarily unable to."""


class ServedModel:
    """A model by its address, on a server queried over one connection, which is opened on demand."""

    def __init__(self, place: SplitResult) -> None:
        self.address = place.geturl()
        self._path = f"/v2/models/{place.path.strip('/')}"
        self._connection = SCHEMES[place.scheme](str(place.hostname), place.port, timeout=_TIMEOUT)
        authorization = os.environ.get(AUTHORIZATION, "")
        if not (authorization.isascii() and authorization.isprintable()):
            raise DferError(
                f"${AUTHORIZATION} holds a line break, or another character that is not of a header; set it anew"
            )
        self._headers = {"Authorization": authorization} if authorization else {}

    @functools.cached_property
    def _config(self) -> dict[str, Any]:
        config, _ = self._ask("GET", "/config")
        return config

    @property
    def precision(self) -> str:
        return self._parameter("precision")

    @property
    def largest(self) -> int:
        """Rows of the largest batch that it accepts."""
        try:
            return max(1, int(self._config.get("max_batch_size") or 1))
        except (TypeError, ValueError, OverflowError) as error:
            raise EngineError(f"{self.address}: its max_batch_size is no number: {error}") from error

    def check(self, digest: str) -> None:
        """Raise EngineError unless it was made from the bundle with this digest."""
        served = self._parameter("bundle_digest")
        if served != digest:
            raise EngineError(
                f"{self.address} serves another bundle ({served[:12] or 'none of ours'}, not {digest[:12]}); write its "
                "repository with dfer-export --bundle BUNDLE --triton FOLDER, or name that bundle"
            )

    def _parameter(self, name: str) -> str:
        parameters = self._config.get("parameters")
        entry = parameters.get(name) if isinstance(parameters, dict) else None
        return str(entry.get("string_value", "")) if isinstance(entry, dict) else ""

    def infer(self, inputs: Mapping[str, Array], version: str, width: int) -> dict[str, NDArray[np.float32]]:
        """Run one batch on a version of the model that returns `width` numbers per row; return all outputs.

        Raises ServerAwayError, and EngineError for a refused request and an invalid response or version.
        """
        import numpy as np

        arrays = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        wanted = {
            "inputs": [
                {
                    "name": name,
                    "shape": array.shape,
                    "datatype": _DATATYPES[str(array.dtype)],
                    "parameters": {"binary_data_size": array.nbytes},
                }
                for name, array in arrays.items()
            ],
            "parameters": {"binary_data_output": True},
        }
        rows = len(next(iter(arrays.values())))
        answer, binary = self._ask(
            "POST", "/infer", wanted, b"".join(array.data.cast("B") for array in arrays.values()), 4 * rows * width
        )
        results, start = {}, 0
        try:
            if answer["model_version"] != version:
                raise EngineError(
                    f"{self.address} serves another model, version {str(answer['model_version'])[:20]}, not {version}; "
                    "write its repository again with dfer-export --bundle BUNDLE --triton FOLDER, or name its bundle"
                )
            for output in answer["outputs"]:
                size = int(output["parameters"]["binary_data_size"])
                values = np.frombuffer(binary[start : start + size], np.dtype("<f4"))
                results[str(output["name"])] = values.reshape(rows, *output["shape"][1:])
                start += size
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise EngineError(f"{self.address}: its answer is not one of KServe's protocol: {error}") from error
        return results

    def wait(self, seconds: float, report: Report) -> None:
        """Wait until the model is ready, and report if that takes time; raise EngineError after `seconds`."""
        begun, told = monotonic(), False
        while True:
            self.close()
            try:
                self._ask("GET", "/ready")
                break
            except EngineError as error:
                if monotonic() - begun > seconds:
                    raise
                if not told:
                    report(f"{error}; waiting for it, {seconds:g} s at most")
                told = True
                sleep(0.2)
        self.__dict__.pop("_config", None)  # it may serve another model now

    def close(self) -> None:
        self._connection.close()

    def _ask(
        self, verb: str, path: str, content: object = None, binary: bytes = b"", expected: int = 0
    ) -> tuple[dict[str, Any], bytes]:
        """Return the JSON of a response, and the tensors after it, which should have `expected` bytes."""
        largest = _LARGEST_TEXT + expected
        text = b"" if content is None else json.dumps(content).encode()
        headers = self._headers | ({_HEADER: str(len(text))} if binary else {})
        try:
            self._connection.request(verb, self._path + path, text + binary, headers)
            response = self._connection.getresponse()
            body = response.read(largest + 1)
            if len(body) <= largest and response.length:
                raise IncompleteRead(body, response.length)
        except ssl.SSLCertVerificationError as error:
            self.close()
            raise EngineError(
                f"{self.address}: its certificate is refused: {error.verify_message.rstrip('.')}; "
                "put the certificate of the authority that signed it, as PEM, into a file that $SSL_CERT_FILE names"
            ) from error
        except (OSError, HTTPException) as error:
            self.close()
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise ServerAwayError(f"{self.address} does not answer: {reason}") from error
        if len(body) > largest:
            self.close()  # the rest would be taken for the next response
            raise EngineError(f"{self.address} answers with more than {largest} bytes; is this Triton's HTTP port?")
        try:
            length = int(response.getheader(_HEADER) or len(body))
            text = body[:length]
            answer = json.loads(text or b"{}") if len(text) <= _LARGEST_TEXT else None
        except ValueError:
            answer = None
        if response.status != 200:
            reason = answer.get("error") if isinstance(answer, dict) else None
            fault = ServerAwayError if response.status >= 500 else EngineError
            raise fault(f"{self.address} answers {response.status}: {reason or response.reason}")
        if not isinstance(answer, dict):
            raise EngineError(f"{self.address} does not speak KServe's protocol; is this Triton's HTTP port?")
        return answer, body[length:]
