"""Spark on an AWS EMR cluster: every job is a step, followed through Dagster Pipes."""

import hashlib
import io
import time
import uuid
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, get_type_hints

import dagster as dg
from pydantic import Field

import fruits_assets
from fruits_assets.jobs.json_types import from_json, to_json
from fruits_assets.store.photos import PhotosError
from fruits_assets.store.root import Root, open_root
from resources.emr_sizing import spark_submit_conf
from resources.job_runner import Job, JobRun, JobRunner, Params, Report

POLL_SECONDS = 2.0
CANCEL_SECONDS = 60.0
MAX_RETRIES, FIRST_WAIT_SECONDS = 3, 30
ENDED = frozenset({"COMPLETED", "CANCELLED", "FAILED", "INTERRUPTED"})

# What a node gets: the jobs and what they import, byte for byte the files that run locally.
SHIPPED = (
    "__init__.py",
    "images.py",
    "backbone/__init__.py",
    "backbone/inference.py",
    "jobs/*.py",
    "store/*.py",
)
ENTRY_POINT = Path(__file__).with_name("emr_step.py")

# AWS's codes that mean "not now": botocore has tried again already, and later may be better.
_THROTTLED = frozenset({"ThrottlingException", "Throttling", "RequestLimitExceeded", "SlowDown"})
_EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "RequestExpired", "InvalidClientTokenId"})


# What assets catch from a job, wherever it ran. Named one by one: nothing that a message from the store
# says is looked up in the code and called.
_RAISED_ANEW: dict[str, type[Exception]] = {
    f"{kind.__module__}:{kind.__qualname__}": kind for kind in (PhotosError, ValueError)
}


class EmrError(RuntimeError):
    """A step did not complete. `retry_helps`: the same step may succeed another time."""

    def __init__(self, message: str, retry_helps: bool) -> None:
        super().__init__(message)
        self.retry_helps = retry_helps


class _Step(NamedTuple):
    id: str
    state: str
    reason: str


class EmrSteps(JobRunner):
    """Runs each job as a step of a running cluster, in client deploy mode.

    The driver is then a child of the step: cancelling the step ends it, and YARN ends its executors.
    """

    cluster: str = Field(description="The id of the cluster, j-...")
    images: str = Field(description="Root of the photos, s3://bucket/prefix.")
    store: str = Field(description="Root of everything that is written, s3://bucket/prefix.")
    region: str = Field(description="Region of the cluster.")
    allowed_regions: list[str] = Field(description="Regions in which data may lie and be worked on.")

    def run(
        self, context: dg.AssetExecutionContext, job: Job[Params, Report], params: Params
    ) -> JobRun[Report]:
        try:
            with _aws_errors_named():
                return self._run(context, job, params)
        except EmrError as error:
            if error.retry_helps:
                wait = FIRST_WAIT_SECONDS * 2**context.retry_number
                raise dg.RetryRequested(MAX_RETRIES, seconds_to_wait=wait) from error
            raise dg.Failure(str(error), allow_retries=False) from error

    def _run(
        self, context: dg.AssetExecutionContext, job: Job[Params, Report], params: Params
    ) -> JobRun[Report]:
        from dagster_aws.pipes import PipesS3ContextInjector

        started = time.monotonic()
        emr, s3 = self._client("emr"), self._client("s3")
        self._check_regions(s3)
        store = open_root(self.store)
        bucket, _, prefix = self.store.removeprefix("s3://").partition("/")
        work = f"emr/{context.run.run_id}/{context.asset_key.to_user_string()}-{uuid.uuid4().hex[:8]}"
        name = f"fruits {context.asset_key.to_user_string()} {_root_run_id(context)}"
        self._cancel_orphans(emr, context, name)
        store.write(f"{work}/params.json", to_json(params))
        code, entry = _upload_code(store)
        with dg.open_pipes_session(
            context=context,
            context_injector=PipesS3ContextInjector(
                bucket=bucket, client=s3, key_prefix=f"{prefix}/{work}/".lstrip("/")
            ),
            message_reader=_message_reader(bucket, f"{prefix}/{work}/messages".lstrip("/"), s3),
        ) as session:
            arguments = [
                *("spark-submit", "--deploy-mode", "client", "--py-files", code),
                *self._spark_conf(emr),
                *(entry, f"{job.__module__}:{job.__qualname__}"),
                *(store.uri_of(f"{work}/params.json"), store.uri_of(f"{work}/report.json")),
                *chain.from_iterable(session.get_bootstrap_cli_arguments().items()),
            ]
            [step_id] = emr.add_job_flow_steps(
                JobFlowId=self.cluster,
                Steps=[
                    {
                        "Name": name,
                        "ActionOnFailure": "CONTINUE",
                        "HadoopJarStep": {"Jar": "command-runner.jar", "Args": arguments},
                    }
                ],
            )["StepIds"]
            context.log.info(f"Step {step_id} on cluster {self.cluster}: {self._console(step_id)}")
            try:
                step = self._follow(emr, step_id)
            except BaseException:
                self._cancel(emr, step_id)
                raise
        said: dict[str, Any] = {}
        for message in session.get_custom_messages():
            said |= message
        if step.state != "COMPLETED":
            self._raise(emr, step, said.get("exception"))
        report = from_json(get_type_hints(job)["return"], store.read(f"{work}/report.json"))
        return JobRun(
            report,
            {
                "engine": f"EMR cluster {self.cluster}",
                "spark_application_id": said["spark_application_id"],
                "seconds": round(time.monotonic() - started, 2),
                "emr_cluster": self.cluster,
                "emr_step": step.id,
                "emr_console": dg.MetadataValue.url(self._console(step.id)),
            },
        )

    def _client(self, service: str) -> Any:
        import boto3
        from botocore.config import Config

        return boto3.client(
            service,
            region_name=self.region,
            config=Config(retries={"mode": "adaptive", "max_attempts": 10}),
        )

    def _check_regions(self, s3: Any) -> None:
        """Raises `EmrError` where photos, store or cluster are outside the allowed regions."""
        places = {f"the cluster {self.cluster}": self.region}
        for variable, uri in (("FRUITS_IMAGES", self.images), ("FRUITS_STORE", self.store)):
            bucket = uri.removeprefix("s3://").partition("/")[0]
            # The location of a bucket in us-east-1 is None: the API is older than the other regions.
            found = s3.get_bucket_location(Bucket=bucket)["LocationConstraint"] or "us-east-1"
            places[f"the bucket {bucket} of {variable}"] = "eu-west-1" if found == "EU" else found
        for place, region in places.items():
            if region not in self.allowed_regions:
                raise EmrError(
                    f"{place} is in {region}, and photos may not leave {', '.join(self.allowed_regions)}. "
                    "Use a place in one of these, or name the region in FRUITS_ALLOWED_REGIONS.",
                    retry_helps=False,
                )

    def _spark_conf(self, emr: Any) -> Iterator[str]:
        """--conf arguments that fit the cluster's core nodes."""
        groups = emr.list_instance_groups(ClusterId=self.cluster)["InstanceGroups"]
        core = next((group for group in groups if group["InstanceGroupType"] == "CORE"), groups[0])
        nodes = core.get("RunningInstanceCount") or core.get("RequestedInstanceCount") or 1
        for key, value in spark_submit_conf(core["InstanceType"], nodes).items():
            yield from ("--conf", f"{key}={value}")

    def _cancel_orphans(self, emr: Any, context: dg.AssetExecutionContext, name: str) -> None:
        """Cancels what an earlier attempt of this very step left behind when its Dagster process died."""
        pages = emr.get_paginator("list_steps").paginate(
            ClusterId=self.cluster, StepStates=["PENDING", "RUNNING"]
        )
        for step in [step for page in pages for step in page["Steps"] if step["Name"] == name]:
            context.log.warning(f"Cancelling the step {step['Id']} of an earlier attempt")
            self._cancel(emr, step["Id"])

    def _follow(self, emr: Any, step_id: str) -> _Step:
        while True:
            step = self._describe(emr, step_id)
            if step.state in ENDED:
                return step
            time.sleep(POLL_SECONDS)

    def _describe(self, emr: Any, step_id: str) -> _Step:
        status = emr.describe_step(ClusterId=self.cluster, StepId=step_id)["Step"]["Status"]
        details = status.get("FailureDetails") or {}
        reason = " ".join(filter(None, (details.get("Reason"), details.get("Message"))))
        return _Step(
            step_id, status["State"], reason or status.get("StateChangeReason", {}).get("Message", "")
        )

    def _cancel(self, emr: Any, step_id: str) -> None:
        """Cancels a step and waits until it has ended, for a minute at most."""
        emr.cancel_steps(
            ClusterId=self.cluster, StepIds=[step_id], StepCancellationOption="TERMINATE_PROCESS"
        )
        deadline = time.monotonic() + CANCEL_SECONDS
        while self._describe(emr, step_id).state not in ENDED and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)

    def _raise(self, emr: Any, step: _Step, exception: dict[str, str] | None) -> NoReturn:
        """Raises what the job raised, if it is an error that assets know; else `EmrError`."""
        if exception:
            kind = _RAISED_ANEW.get(exception["class"])
            if kind is not None:
                raise kind(exception["message"])
        cluster = emr.describe_cluster(ClusterId=self.cluster)["Cluster"]
        where = f"{cluster.get('LogUri', '').rstrip('/')}/{self.cluster}/steps/{step.id}/"
        logs = f"EMR uploads its logs to {where} about every five minutes. {self._console(step.id)}"
        state = cluster["Status"]["State"]
        if state.startswith("TERMINAT"):
            reason = cluster["Status"].get("StateChangeReason", {}).get("Message", "no reason given")
            raise EmrError(
                f"The cluster {self.cluster} is {state} and took step {step.id} with it ({reason}). {logs}",
                retry_helps=False,
            )
        if step.state == "CANCELLED":
            raise EmrError(f"Step {step.id} was cancelled outside Dagster. {logs}", retry_helps=False)
        cause = (
            f"{exception['class']}: {exception['message']}" if exception else step.reason or "no reason given"
        )
        raise EmrError(f"Step {step.id} {step.state}: {cause}. {logs}", retry_helps=exception is None)

    def _console(self, step_id: str) -> str:
        return (
            f"https://{self.region}.console.aws.amazon.com/emr/home?region={self.region}"
            f"#/clusterDetails/{self.cluster}/steps/{step_id}"
        )


def code_archive() -> bytes:
    """The shipped files as a zip: the same bytes for the same files."""
    package = Path(fruits_assets.__file__).parent
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(path for pattern in SHIPPED for path in package.glob(pattern)):
            # A fixed time, so that the archive's name depends on the files alone.
            info = zipfile.ZipInfo(f"fruits_assets/{file.relative_to(package)}", (1980, 1, 1, 0, 0, 0))
            archive.writestr(info, file.read_bytes())
    return buffer.getvalue()


def _upload_code(store: Root) -> tuple[str, str]:
    """Puts the archive and the entry point under names made of their content; returns their URIs."""
    uris = []
    for suffix, content in ((".zip", code_archive()), (".py", ENTRY_POINT.read_bytes())):
        path = f"emr/code/{hashlib.sha256(content).hexdigest()}{suffix}"
        if not store.has(path):
            store.write(path, content)
        uris.append(store.uri_of(path))
    return uris[0], uris[1]


def _root_run_id(context: dg.AssetExecutionContext) -> str:
    """The run that this run is an attempt of; a retry of a dead run has the same."""
    return context.run.tags.get("dagster/root_run_id", context.run.run_id)


def _message_reader(bucket: str, key_prefix: str, s3: Any) -> Any:
    """Pipes' reader of messages from S3, under a prefix of ours instead of one at the bucket's root."""
    from dagster_aws.pipes import PipesS3MessageReader

    class MessageReader(PipesS3MessageReader):
        @contextmanager
        def get_params(self) -> Iterator[dict[str, Any]]:
            with super().get_params() as params:
                yield {**params, "key_prefix": key_prefix}

    return MessageReader(interval=POLL_SECONDS, bucket=bucket, client=s3)


@contextmanager
def _aws_errors_named() -> Iterator[None]:
    """Turns botocore's errors into sentences, sorted by whether a retry helps."""
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

    try:
        yield
    except ClientError as error:
        code, words = error.response["Error"]["Code"], error.response["Error"].get("Message", "")
        if code in _THROTTLED:
            raise EmrError(f"AWS throttles {error.operation_name} ({code}): {words}", True) from error
        if code in _EXPIRED:
            raise EmrError(f"AWS credentials have expired ({code}): renew them. {words}", False) from error
        raise EmrError(f"AWS refused {error.operation_name} ({code}): {words}", False) from error
    except NoCredentialsError as error:
        raise EmrError(
            "There are no AWS credentials: set AWS_PROFILE or AWS_ACCESS_KEY_ID.", False
        ) from error
    except BotoCoreError as error:
        raise EmrError(f"AWS could not be reached: {error}", True) from error
