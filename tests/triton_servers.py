"""Servers that speak KServe's protocol over HTTP: a stub, and the real Triton where there is one."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np

from dfer.runtime.engines import open_engine

HEADER = "Inference-Header-Content-Length"
UNPACKED = "DFER_TRITON"
"""Environment variable with the folder that `.ci/triton` made."""


def real_triton() -> Path | None:
    """The folder of the real server, if there is one here."""
    folder = os.environ.get(UNPACKED)
    return Path(folder).resolve() if folder else None


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


class RealTriton:
    """`tritonserver` on a model repository, on ports of its own. Use as a context manager; it is ready then.

    options: more of its own.
    """

    def __init__(self, repository: Path, work: Path, *options: str) -> None:
        server = real_triton()
        assert server is not None
        self._server, self._repository, self._options = server, repository, options
        self.port = free_port()
        self._backends = work / "backends"
        self._log = work / "server.log"
        if not self._backends.exists():
            self._make_backends()
        self._process: subprocess.Popen[bytes] | None = None

    def _make_backends(self) -> None:
        """The python backend with the stub for this Python, and our ONNX Runtime on it."""
        triton = self._server / "pytriton" / "tritonserver"
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        python, ours = self._backends / "python", self._backends / "onnxruntime"
        shutil.copytree(triton / "backends" / "python", python)
        stub = shutil.copy(triton / "python_backend_stubs" / version / "triton_python_backend_stub", python)
        for program in (Path(stub), triton / "bin" / "tritonserver"):
            program.chmod(0o755)
        ours.mkdir()
        shutil.copy(Path(__file__).with_name("triton_backend.py"), ours / "model.py")
        (ours / "packages").symlink_to(self._server / "packages")

    def start(self) -> None:
        libraries = [self._server / "nvidia_pytriton.libs", sysconfig.get_config_var("LIBDIR")]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    str(self._server / "pytriton" / "tritonserver" / "bin" / "tritonserver"),
                    *(f"--model-repository={self._repository}", f"--backend-directory={self._backends}"),
                    *("--http-address=127.0.0.1", f"--http-port={self.port}"),
                    *("--allow-grpc=false", "--allow-metrics=false", "--exit-timeout-secs=5"),
                    *self._options,
                ],
                env=os.environ | {"LD_LIBRARY_PATH": ":".join(map(str, libraries))},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        limit = time.monotonic() + 240
        while True:
            try:
                with urlopen(f"http://127.0.0.1:{self.port}/v2/health/ready", timeout=5):
                    return
            except (URLError, OSError) as error:
                if self._process.poll() is not None or time.monotonic() > limit:
                    self.kill()
                    raise AssertionError(self._log.read_text(errors="replace")[-3000:]) from error
                time.sleep(0.1)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """At once, with the processes of its backends."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def batches(self, model: str) -> tuple[int, int]:
        """Rows that were inferred since the start, and runs of the model that took; warming up counts."""
        with urlopen(f"http://127.0.0.1:{self.port}/v2/models/{model}/stats", timeout=5) as answer:
            (stats,) = json.load(answer)["model_stats"]
        return int(stats["inference_count"]), int(stats["execution_count"])

    def __enter__(self) -> RealTriton:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


class StubTriton:
    """The protocol's answers for one model of a repository that `write_repository` wrote. Use as a context manager.

    respond: may answer a request in the stub's place, by (status, headers, body); None where it does not. requests:
    what was asked, as (verb, path, headers). certificate: a PEM file of it and its key, to speak TLS.
    """

    def __init__(self, model: Path, certificate: Path | None = None) -> None:
        self.model = model.name
        self._certificate = certificate
        self._config = (model / "config.pbtxt").read_text(encoding="utf-8")
        (graph,) = model.glob("*/model.onnx")
        self._version = graph.parent.name
        self._engine = open_engine(graph.read_bytes(), "cpu")
        self.respond: Callable[[str], tuple[int, dict[str, str], bytes] | None] = lambda path: None
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.port = free_port()
        self._server: ThreadingHTTPServer | None = None
        self._open: list[socket.socket] = []

    @property
    def address(self) -> str:
        return f"triton{'+https' if self._certificate else ''}://127.0.0.1:{self.port}/{self.model}"

    def config(self) -> dict[str, Any]:
        """Of the text that is shipped, what a client reads of it."""
        pairs = re.findall(r'parameters \{ key: "(\w+)" value \{ string_value: "(.*?)" \} \}', self._config)
        largest = re.search(r"max_batch_size: (\d+)", self._config)
        assert largest is not None
        return {
            "name": self.model,
            "max_batch_size": int(largest[1]),
            "parameters": {key: {"string_value": value} for key, value in pairs},
        }

    def infer(self, text: bytes, binary: bytes) -> tuple[int, dict[str, str], bytes]:
        (given,) = json.loads(text)["inputs"]
        assert given["datatype"] == "UINT8"
        assert given["parameters"]["binary_data_size"] == len(binary)
        frames = np.frombuffer(binary, np.uint8).reshape(given["shape"])
        if len(frames) > self.config()["max_batch_size"]:
            return 400, {}, json.dumps({"error": f"batch of {len(frames)} is too large"}).encode()
        features = self._engine.run({given["name"]: frames})["features"]
        size = {"binary_data_size": features.nbytes}
        output = {"name": "features", "datatype": "FP32", "shape": features.shape, "parameters": size}
        head = json.dumps({"model_name": self.model, "model_version": self._version, "outputs": [output]}).encode()
        return 200, {HEADER: str(len(head))}, head + features.tobytes()

    def replace(self, model: Path) -> None:
        """Serve another model from now on, as Triton does when it finds one in the place of this."""
        other = StubTriton(model)
        self._engine.close()
        self._config, self._engine, self._version = other._config, other._engine, other._version

    def start(self) -> None:
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                stub._open.append(self.request)

            def do_GET(self) -> None:
                base = f"/v2/models/{stub.model}"
                found = {f"{base}/config": json.dumps(stub.config()).encode(), f"{base}/ready": b""}
                content = found.get(self.path)
                missing = json.dumps({"error": f"Request for unknown model: {self.path}"}).encode()
                self._answer((404, {}, missing) if content is None else (200, {}, content))

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                split = int(self.headers[HEADER])
                self._answer(stub.infer(body[:split], body[split:]))

            def _answer(self, usual: tuple[int, dict[str, str], bytes]) -> None:
                stub.requests.append((self.command, self.path, dict(self.headers)))
                status, headers, content = stub.respond(self.path) or usual
                self.send_response(status)
                for name, value in ({"Content-Length": str(len(content))} | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        if self._certificate:
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(self._certificate)
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def kill(self) -> None:
        """Stop, and break what is connected."""
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()
        self.hang_up()

    def hang_up(self) -> None:
        """Close all connections."""
        while self._open:
            one = self._open.pop()
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> StubTriton:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._engine.close()
