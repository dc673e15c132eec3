"""The process that simulates AWS: moto's server on loopback, with an EMR that really runs steps."""

import json
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moto.iam.access_control import IAMRequestBase
from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import make_server

from rehearsal import cloudformation, emr, s3
from rehearsal.faults import Faults
from rehearsal.nodes import step_environment, write_spark_conf
from rehearsal.steps import StepRunner


class _Quiet(MotoRequestHandler):
    def log_request(self, *_: Any) -> None:
        """Logs nothing: a run makes thousands of requests."""


def serve(
    port: int, folder: str, hadoop_conf: str, python: str, aws: dict[str, str], yarn: str, log_seconds: float
) -> None:
    """Serves on 127.0.0.1 until the process is killed. `aws.start_aws` describes the parameters."""

    def environment(spark_conf: Path, access: Mapping[str, str]) -> dict[str, str]:
        write_spark_conf(spark_conf, access)
        return step_environment(spark_conf, Path(hadoop_conf), Path(python), access)

    runner = StepRunner(
        folder=Path(folder), environment=environment, yarn=yarn, aws=aws, log_seconds=log_seconds
    )
    emr.install(runner)
    s3.install()
    cloudformation.install()
    # moto identifies the caller by the access key. It can't check the signatures of S3A and pyarrow.
    IAMRequestBase.check_signature = lambda self: None  # type: ignore[method-assign]
    threading.Thread(target=runner.run_forever, name="steps", daemon=True).start()
    application = Faults(DomainDispatcherApplication(create_backend_app))
    make_server("127.0.0.1", port, application, threaded=True, request_handler=_Quiet).serve_forever()


if __name__ == "__main__":
    serve(**json.loads(Path(sys.argv[1]).read_text()))
