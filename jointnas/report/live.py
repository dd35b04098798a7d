"""A run's report over HTTP, on this machine alone, drawn again when the run has changed."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType

from jointnas.campaign.folders import BEST
from jointnas.errors import JointNASError, RunError
from jointnas.report.contents import Contents
from jointnas.report.page import page

HOST = "127.0.0.1"
REFRESH_SECONDS = 15.0


class LiveReport:
    """A server of one page. Use as a context manager. Raises `RunError` for a port that is taken."""

    def __init__(self, run: Path, port: int) -> None:
        self._run, self._lock = run, threading.Lock()
        self._drawn: tuple[object, bytes] | None = None
        report = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                host = self.headers.get("Host", "").rsplit(":", 1)[0]
                if self.path != "/" or host not in (HOST, "localhost"):
                    self.send_error(404)
                    return
                try:
                    body = report.body()
                except JointNASError as error:
                    self.send_error(503, explain=str(error))
                    return
                self.send_response(200)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: object) -> None:
                """Print nothing for each request."""

        try:
            self._server = ThreadingHTTPServer((HOST, port), Handler)
        except OSError as error:
            raise RunError(
                f"a report is served on a free port, got --port {port} ({error.strerror}): choose another"
            ) from error

    @property
    def address(self) -> str:
        """Where a browser finds it."""
        return f"http://{HOST}:{self._server.server_port}/"

    def serve(self) -> None:
        """Answer requests until interrupted."""
        self._server.serve_forever()

    def close(self) -> None:
        """Stop answering, from another thread."""
        self._server.shutdown()

    def body(self) -> bytes:
        """Return the page; it is drawn only where the run has changed since."""
        with self._lock:
            contents = Contents.read(self._run)
            state = (
                contents.ended_at,
                contents.rounds,
                contents.queries,
                contents.retrained,
                (self._run / BEST).exists(),
            )
            if self._drawn is None or self._drawn[0] != state:
                self._drawn = state, page(contents, REFRESH_SECONDS).encode()
            return self._drawn[1]

    def __enter__(self) -> LiveReport:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.server_close()
