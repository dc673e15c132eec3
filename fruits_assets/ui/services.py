"""Starts the UI and all that it needs: the code location, Dagster's daemon and the web server."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path

import dagster as dg
import uvicorn
from dagster._cli.proxy_server_manager import ProxyServerManager
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import ModuleTarget, WorkspaceFileTarget

from fruits_assets.ui.webserver import Webserver
from resources.scratch import use_scratch_folder
from resources.settings import StoreSettings
from spark_jobs.errors import FruitsError

# What `dagster dev` gives to its web server.
_STATEMENT_MILLISECONDS, _POOL_SECONDS, _POOL_OVERFLOW = 15_000, 3600, 20

_DAEMON_SECONDS = 60  # which the daemon has for its end


def serve(host: str, port: int, settings: StoreSettings, *, read_only: bool, daemon: bool) -> None:
    """Serves the UI, with Dagster's daemon unless another process runs it, until SIGINT or SIGTERM.

    Raises `FruitsError` where the address cannot be used, and where the daemon ends by itself.
    """
    with ExitStack() as stack:
        listener = stack.enter_context(_listening(host, port))
        instance = stack.enter_context(dg.DagsterInstance.get())
        workspace = stack.enter_context(_code_location(instance))
        instance.optimize_for_webserver(_STATEMENT_MILLISECONDS, _POOL_SECONDS, _POOL_OVERFLOW)
        context = stack.enter_context(
            WorkspaceProcessContext(
                instance, WorkspaceFileTarget([str(workspace)]), version("dagster-webserver"), read_only
            )
        )
        app = Webserver(context, settings).create_asgi_app()
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5))
        running = stack.enter_context(_daemon(workspace, server)) if daemon else None
        print(f"Dagster's UI is on http://{host}:{port}. Ctrl-C ends it.", flush=True)
        server.run(sockets=[listener])
        if running and (status := running.poll()) is not None:
            raise FruitsError(f"Dagster's daemon ended with status {status}. Its last lines are above.")


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket at an address, which is taken before anything else starts."""
    try:
        listener = socket.create_server((host, port))
    except OSError as error:
        raise FruitsError(
            f"The UI cannot use the port {port} of {host}: {os.strerror(error.errno or 0)}. Name another: "
            "fruits ui --port ..."
        ) from None
    with listener:
        yield listener


@contextmanager
def _code_location(instance: dg.DagsterInstance) -> Iterator[Path]:
    """Runs the code location in a process; yields the file by which Dagster's other processes find it."""
    target = ModuleTarget("fruits_assets.definitions", None, None, "fruits")
    workspace = use_scratch_folder() / "workspace.yaml"
    with ProxyServerManager(instance, target, code_server_log_level="warning") as code:
        # JSON is YAML too.
        workspace.write_text(json.dumps({"load_from": [*code.get_code_server_specs()]}))
        yield workspace


@contextmanager
def _daemon(workspace: Path, server: uvicorn.Server) -> "Iterator[subprocess.Popen[bytes]]":
    """Runs Dagster's daemon while the context lasts. If the daemon ends first, the server ends too."""
    command = [sys.executable, "-m", "dagster._daemon", "run", "--workspace", str(workspace)]
    daemon = subprocess.Popen(command)

    def end_with_daemon() -> None:
        daemon.wait()
        server.should_exit = True

    threading.Thread(target=end_with_daemon, daemon=True).start()
    try:
        yield daemon
    finally:
        daemon.terminate()
        try:
            daemon.wait(_DAEMON_SECONDS)
        except subprocess.TimeoutExpired:
            daemon.kill()
