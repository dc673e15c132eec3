"""The process that stands for AWS: moto's server with S3, IAM, STS and the executing EMR, on loopback."""

import json
import sys
import threading
from pathlib import Path
from typing import Any

from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import make_server

from resources.rehearsal import emr
from resources.rehearsal.faults import Faults
from resources.rehearsal.steps import StepRunner


class _Quiet(MotoRequestHandler):
    def log_request(self, *_: Any) -> None:
        """Thousands of reads and writes are no news."""


def serve(port: int, folder: Path, environment: dict[str, str], yarn: str, log_seconds: float) -> None:
    """Serves on 127.0.0.1 until the process is killed; see `aws.start_aws` for the parameters."""

    def client(service: str) -> Any:
        import boto3

        names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_ENDPOINT_URL")
        key, secret, region, endpoint = (environment[name] for name in names)
        return boto3.client(
            service,
            aws_access_key_id=key,
            aws_secret_access_key=secret,
            region_name=region,
            endpoint_url=endpoint,
        )

    runner = StepRunner(folder, environment, yarn, client, log_seconds)
    emr.install(runner)
    threading.Thread(target=runner.run_forever, name="steps", daemon=True).start()
    application = Faults(DomainDispatcherApplication(create_backend_app))
    make_server("127.0.0.1", port, application, threaded=True, request_handler=_Quiet).serve_forever()


if __name__ == "__main__":
    options = json.loads(Path(sys.argv[1]).read_text())
    serve(**{**options, "folder": Path(options["folder"])})
