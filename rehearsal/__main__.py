"""Runs a simulated AWS account and YARN cluster on this machine until Ctrl-C.

`python -m rehearsal` prints the environment variables that lead to them. `--check` runs one small step.
"""

import argparse
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from textwrap import dedent

from rehearsal.environment import RehearsalEnvironment, start_environment
from spark_jobs.errors import FruitsError

_PROGRAM = dedent(
    """
    import sys
    from pyspark.sql import SparkSession

    context = SparkSession.builder.appName("check").getOrCreate().sparkContext
    context.parallelize(range(1000), 4).saveAsTextFile(sys.argv[1])
    print(f"the sum is {context.textFile(sys.argv[1]).map(int).sum()}")
    """
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m rehearsal", description=__doc__)
    parser.add_argument("--check", action="store_true", help="run one small step, print its result, and end")
    parser.add_argument("--python", type=Path, help="the Python of the nodes; by default a new environment")
    options = parser.parse_args()
    # Removes the temporary folder on SIGTERM too. The processes end in any case.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with (
            tempfile.TemporaryDirectory(prefix="rehearsal-") as folder,
            start_environment(Path(folder), options.python) as rehearsal,
        ):
            if options.check:
                return _check(rehearsal)
            for name, value in rehearsal.variables().items():
                print(f"export {name}={value}")
            print(f"# The bucket is s3://{rehearsal.bucket}. YARN's web pages are at {rehearsal.yarn.url}.")
            print("# Ctrl-C ends the rehearsal.", flush=True)
            threading.Event().wait()
    except KeyboardInterrupt:
        return 130
    except FruitsError as error:
        print(error, file=sys.stderr)
    return 1


def _check(rehearsal: RehearsalEnvironment) -> int:
    """Runs a small Spark program as a step. Returns the exit status: 0 if its result is correct."""
    emr, s3 = rehearsal.aws.client("emr"), rehearsal.aws.client("s3")
    s3.put_object(Bucket=rehearsal.bucket, Key="check.py", Body=_PROGRAM.encode())
    root = f"s3://{rehearsal.bucket}"
    arguments = ["spark-submit", "--num-executors", "2", "--executor-memory", "512m"]
    step = {
        "Name": "check",
        "ActionOnFailure": "CONTINUE",
        "HadoopJarStep": {
            "Jar": "command-runner.jar",
            "Args": [*arguments, f"{root}/check.py", f"{root}/check"],
        },
    }
    started = time.monotonic()
    [step_id] = emr.add_job_flow_steps(JobFlowId=rehearsal.cluster, Steps=[step])["StepIds"]
    while True:
        status = emr.describe_step(ClusterId=rehearsal.cluster, StepId=step_id)["Step"]["Status"]
        if status["State"] not in ("PENDING", "RUNNING"):
            break
        time.sleep(0.5)
    logs = rehearsal.aws.step_folder / step_id
    output = (logs / "stdout").read_text()
    print(f"{step_id} {status['State']} after {time.monotonic() - started:.0f} s: {output.strip()}")
    if status["State"] == "COMPLETED" and "the sum is 499500" in output:
        return 0
    print((logs / "stderr").read_text(), file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
