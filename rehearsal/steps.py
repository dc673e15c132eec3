"""Runs the steps of moto's clusters as real processes. Runs in the process of moto's server."""

import gzip
import math
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from moto.core import DEFAULT_ACCOUNT_ID
from moto.core.utils import utcnow
from moto.iam.models import iam_backends
from moto.sts.models import sts_backends

from rehearsal.aws import client_of
from rehearsal.delays import Delays
from rehearsal.emr import ENDED, LOCK, RehearsedCluster, RehearsedStep, for_each_cluster
from rehearsal.processes import kill_marked, start_process
from rehearsal.yarn import Yarn
from resources.emr.account import NODE_PYTHON

POLL_SECONDS = 0.2

SESSION_SECONDS = 6 * 3600  # validity of the credentials of a cluster's nodes

ACTIVE = ("PENDING", "RUNNING", "CANCEL_PENDING")


@dataclass(kw_only=True)
class StepRunner:
    """Runs the steps of every cluster in their order, each as a process.

    The files of a step are in `folder/<step id>`. `environment` returns the environment variables of a step's
    process; its arguments are the cluster, a folder for Spark's configuration, and the variables that lead a
    node to this server. `aws` has these variables with other credentials. `yarn` has the applications of the
    clusters, if there is a YARN.
    """

    folder: Path
    environment: Callable[[RehearsedCluster, Path, Mapping[str, str]], dict[str, str]]
    yarn: Yarn | None
    aws: Mapping[str, str]
    delays: Delays
    _processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    # The steps whose cancellation the primary node has not seen yet: when it sees it, and the option.
    _cancelled: dict[str, tuple[float, str]] = field(default_factory=dict)

    def run_forever(self) -> None:
        """Advances all clusters in an endless loop; runs in a separate thread."""
        while True:
            with LOCK:
                for_each_cluster(self._advance)
            time.sleep(POLL_SECONDS)

    def cancel(self, cluster: RehearsedCluster, step: RehearsedStep, option: str) -> dict[str, str]:
        """Cancels a step, and returns its entry of the answer to `CancelSteps`.

        A running step runs on, until its primary node sees the cancellation.
        """
        with LOCK:
            if step.state == "PENDING":
                step.end("CANCELLED", "Job terminated")
            elif step.state in ("RUNNING", "CANCEL_PENDING"):
                step.state = "CANCEL_PENDING"
                self._cancelled[step.id] = time.monotonic() + self.delays.cancel_seconds, option
            else:
                return {"StepId": step.id, "Status": "FAILED", "Reason": f"The step is {step.state}."}
        return {"StepId": step.id, "Status": "SUBMITTED"}

    def _advance(self, cluster: RehearsedCluster) -> None:
        if cluster.state in ENDED:
            return
        for step in cluster.runnable:
            if step.id in self._processes:
                self._stop_if_cancelled(step)
                self._finish_if_ended(cluster, step)
        if cluster.state == "TERMINATING":
            self._end_cluster(cluster)
            return
        running = sum(step.state in ("RUNNING", "CANCEL_PENDING") for step in cluster.runnable)
        pending = [step for step in cluster.runnable if step.state == "PENDING"]
        for step in pending[: max(0, cluster.step_concurrency_level - running)]:
            self._begin(cluster, step)
        if any(step.state in ACTIVE for step in cluster.runnable):
            cluster.state, cluster.idle_since = "RUNNING", utcnow()
            cluster.reason = {"Message": "Running step"}
            return
        cluster.state = "WAITING"
        cluster.reason = {"Message": "Cluster ready to run steps."}
        idle = (cluster.auto_termination or {}).get("IdleTimeout")
        if cluster.runnable and not cluster.keep_job_flow_alive_when_no_steps:
            cluster.terminate("ALL_STEPS_COMPLETED", "Steps completed")
        elif idle and utcnow() - cluster.idle_since > timedelta(seconds=int(idle)):
            cluster.terminate("ALL_STEPS_COMPLETED", "Cluster was idle for the time of its policy")

    def _begin(self, cluster: RehearsedCluster, step: RehearsedStep) -> None:
        folder = self.folder / step.id
        folder.mkdir(parents=True)
        step.state, step.start_date_time = "RUNNING", utcnow()
        environment = self.environment(cluster, folder / "conf", self._access(cluster))
        try:
            if step.jar != "command-runner.jar":
                raise FileNotFoundError(f"the rehearsal can run command-runner.jar only, not {step.jar}")
            # The Python environment of EMR's nodes is in another place here.
            name = environment["PYSPARK_PYTHON"] if step.args[:1] == [NODE_PYTHON] else "".join(step.args[:1])
            program = shutil.which(name, path=environment["PATH"])
            if program is None:
                raise FileNotFoundError(f"the nodes have no command {' '.join(step.args[:1])!r}")
        except FileNotFoundError as error:
            (folder / "stderr").write_text(f"{error}\n")
            self._end_step(cluster, step, 1)
            return
        self._processes[step.id] = start_process(
            self._mark(step),
            [program, *step.args[1:]],
            folder / "stdout",
            # The user of a YARN application identifies its cluster here; on EMR the user is always `hadoop`.
            {**environment, "HADOOP_USER_NAME": cluster.id},
            errors=folder / "stderr",
        )

    def _stop_if_cancelled(self, step: RehearsedStep) -> None:
        seen, option = self._cancelled.get(step.id, (math.inf, ""))
        if time.monotonic() < seen:
            return
        del self._cancelled[step.id]
        if option == "TERMINATE_PROCESS":
            kill_marked(self._mark(step))
        else:
            # As on EMR, to the step's process alone, which passes the signal on to its children.
            self._processes[step.id].send_signal(signal.SIGTERM)

    def _finish_if_ended(self, cluster: RehearsedCluster, step: RehearsedStep) -> None:
        status = self._processes[step.id].poll()
        if status is not None:
            del self._processes[step.id]
            self._end_step(cluster, step, status)

    def _end_step(self, cluster: RehearsedCluster, step: RehearsedStep, status: int) -> None:
        log_root = f"{(cluster.log_uri or '').rstrip('/')}/{cluster.id}/steps/{step.id}"
        if step.state == "CANCEL_PENDING":
            step.end("CANCELLED", "Job terminated")
        elif status == 0:
            step.end("COMPLETED")
        else:
            log = {"LogFile": f"{log_root}/stderr.gz"} if cluster.log_uri else {}
            step.end("FAILED", failure={"Reason": "Unknown Error.", **log})
            self._after_failure(cluster, step)
        (self.folder / step.id / "controller").write_text(
            f"{utcnow():%Y-%m-%dT%H:%M:%SZ} INFO Command exiting with ret '{status}'\n"
        )
        if cluster.log_uri:
            # With the credentials of a node that lives, because its cluster may end before.
            access = self._access(cluster)
            _later(self.delays.log_seconds, lambda: self._upload_logs(access, log_root, step.id))

    def _after_failure(self, cluster: RehearsedCluster, failed: RehearsedStep) -> None:
        if failed.action_on_failure in ("TERMINATE_CLUSTER", "TERMINATE_JOB_FLOW"):
            cluster.terminate("STEP_FAILURE", "Shut down as step failed", errors=True)
        elif failed.action_on_failure == "CANCEL_AND_WAIT":
            for step in cluster.runnable:
                if step.state == "PENDING":
                    step.end("CANCELLED", "Job terminated")

    def _end_cluster(self, cluster: RehearsedCluster) -> None:
        for step in cluster.runnable:
            if step.id in self._processes:
                kill_marked(self._mark(step))
                step.state = "CANCEL_PENDING"
                self._end_step(cluster, step, self._processes.pop(step.id).wait())
            elif step.state in ACTIVE:
                step.end("CANCELLED", "Job terminated")
        cluster.state, cluster.end_datetime = cluster.end_state, utcnow()
        for group in cluster.instance_groups:
            group.state, group.end_date_time = "TERMINATED", utcnow()
        _later(self.delays.interface_seconds, cluster.remove_interface)
        self._kill_applications(cluster.id)

    def _kill_applications(self, user: str) -> None:
        """Kills a cluster's applications. On EMR, YARN ends with the cluster; here all clusters share it."""
        if self.yarn is None:
            return
        for application in self.yarn.applications(user):
            if application["state"] not in ("FINISHED", "FAILED", "KILLED"):
                self.yarn.kill_application(application["id"])

    def _upload_logs(self, access: Mapping[str, str], log_root: str, step_id: str) -> None:
        bucket, _, prefix = log_root.partition("://")[2].partition("/")
        s3 = client_of(access, "s3")
        for name in ("controller", "stderr", "stdout"):
            log = self.folder / step_id / name
            if log.exists():
                s3.put_object(Bucket=bucket, Key=f"{prefix}/{name}.gz", Body=gzip.compress(log.read_bytes()))

    def _access(self, cluster: RehearsedCluster) -> dict[str, str]:
        """The environment variables that lead a cluster's nodes to AWS, with the role of their profile."""
        profiles = iam_backends[DEFAULT_ACCOUNT_ID]["aws"].get_instance_profiles()
        [profile] = [each for each in profiles if cluster.job_flow_role in (each.name, each.arn)]
        session = sts_backends[DEFAULT_ACCOUNT_ID]["aws"].assume_role(
            region_name=cluster.emr_backend.region_name,
            role_session_name=cluster.id,
            role_arn=profile.roles[0].arn,
            policy="",
            duration=SESSION_SECONDS,
            external_id="",
        )
        return {
            **self.aws,
            "AWS_ACCESS_KEY_ID": session.access_key_id,
            "AWS_SECRET_ACCESS_KEY": session.secret_access_key,
            "AWS_SESSION_TOKEN": session.session_token,
        }

    def _mark(self, step: RehearsedStep) -> str:
        return str(self.folder / step.id)


def _later(seconds: float, call: Callable[[], None]) -> None:
    """Makes a call after some time, in a thread that does not outlive the server."""
    timer = threading.Timer(seconds, call)
    timer.daemon = True
    timer.start()
