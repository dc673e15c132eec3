"""The process that simulates AWS: moto's server on loopback, with an EMR that really runs steps."""

import json
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from moto.core.responses import BaseResponse
from moto.emr.responses import ElasticMapReduceResponse
from moto.iam.access_control import PermissionResult
from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from moto.s3.models import FakeBucket
from werkzeug.serving import BaseWSGIServer, make_server

from rehearsal import cloudformation, emr, network, quotas, simulation
from rehearsal.delays import Delays
from rehearsal.faults import Faults
from rehearsal.judge import Judge
from rehearsal.nodes import step_environment, write_spark_conf
from rehearsal.scaling import Scaler
from rehearsal.steps import StepRunner
from rehearsal.yarn import Yarn


class _Quiet(MotoRequestHandler):
    def log_request(self, *_: Any) -> None:
        """Logs nothing: a run makes thousands of requests."""


def judged_moto(**options: Any) -> Judge:
    """moto as a WSGI application behind a judge, with the options of `Judge`."""
    # moto denies every call to a bucket whose policy has a condition that does not hold.
    FakeBucket.get_permission = lambda *_: PermissionResult.NEUTRAL  # type: ignore[method-assign]
    # moto reads EMR's region from the host name alone, here 127.0.0.1. The request's signature names it too.
    api: Any = ElasticMapReduceResponse
    api.get_region_from_url = BaseResponse.get_region_from_url
    return Judge(DomainDispatcherApplication(create_backend_app), **options)


@contextmanager
def served(application: Callable[..., Any]) -> Iterator[str]:
    """The address of a server on a free port of loopback, in this process."""
    server = _server(0, application)
    # The server looks this often, in seconds, whether it shall end.
    thread = threading.Thread(target=server.serve_forever, args=[0.02], daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.port}"
    server.shutdown()
    thread.join()
    server.server_close()


def serve(
    port: int, folder: str, python: str, aws: dict[str, str], yarn: list[str] | None, delays: dict[str, float]
) -> None:
    """Serves on 127.0.0.1 until the process is killed. `aws.start_aws` describes the parameters.

    `yarn` has the folder and the URL of YARN.
    """
    nodes = Yarn(Path(yarn[0]), yarn[1]) if yarn else None
    hadoop_conf = nodes.conf_dir if nodes else None

    def environment(
        cluster: emr.RehearsedCluster, spark_conf: Path, access: Mapping[str, str]
    ) -> dict[str, str]:
        write_spark_conf(spark_conf, access, cluster.hdfs_copies)
        return step_environment(spark_conf, hadoop_conf, Path(python), access)

    def on_start(cluster: emr.RehearsedCluster) -> None:
        cluster.remove_interface = network.add_interface(cluster)

    runner = StepRunner(
        folder=Path(folder), environment=environment, yarn=nodes, aws=aws, delays=Delays(**delays)
    )
    emr.install(runner, on_start)
    for extension in (cloudformation, network, quotas, simulation):
        extension.install()
    threading.Thread(target=runner.run_forever, name="steps", daemon=True).start()
    if nodes:
        threading.Thread(target=Scaler(yarn=nodes).run_forever, name="scaling", daemon=True).start()
    _server(port, Faults(judged_moto(trusted=aws["AWS_ACCESS_KEY_ID"]))).serve_forever()


def _server(port: int, application: Callable[..., Any]) -> BaseWSGIServer:
    return make_server("127.0.0.1", port, application, threaded=True, request_handler=_Quiet)


if __name__ == "__main__":
    serve(**json.loads(Path(sys.argv[1]).read_text()))
