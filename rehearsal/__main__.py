"""`python -m rehearsal` runs the ground of a rehearsal until Ctrl-C; `--check` tries it out."""

import argparse
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from textwrap import dedent

from rehearsal.ground import Ground, start_ground
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
    parser.add_argument("--check", action="store_true", help="run one small step, say how it ended, stop")
    parser.add_argument("--python", type=Path, help="the Python of the nodes; by default one made for them")
    options = parser.parse_args()
    # So that the temporary folder goes too; the processes go in any case.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with (
            tempfile.TemporaryDirectory(prefix="rehearsal-") as folder,
            start_ground(Path(folder), options.python) as ground,
        ):
            if options.check:
                return _check(ground)
            for name, value in ground.environment().items():
                print(f"export {name}={value}")
            print(f"# The bucket is s3://{ground.bucket}, YARN's pages are at {ground.yarn.url}.")
            print("# Ctrl-C ends it all.", flush=True)
            threading.Event().wait()
    except KeyboardInterrupt:
        return 130
    except FruitsError as error:
        print(error, file=sys.stderr)
    return 1


def _check(ground: Ground) -> int:
    emr, s3 = ground.aws.client("emr"), ground.aws.client("s3")
    s3.put_object(Bucket=ground.bucket, Key="check.py", Body=_PROGRAM.encode())
    root = f"s3://{ground.bucket}"
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
    [step_id] = emr.add_job_flow_steps(JobFlowId=ground.cluster, Steps=[step])["StepIds"]
    while True:
        status = emr.describe_step(ClusterId=ground.cluster, StepId=step_id)["Step"]["Status"]
        if status["State"] not in ("PENDING", "RUNNING"):
            break
        time.sleep(0.5)
    logs = ground.aws.step_folder / step_id
    said = (logs / "stdout").read_text()
    print(f"{step_id} {status['State']} after {time.monotonic() - started:.0f} s: {said.strip()}")
    if status["State"] == "COMPLETED" and "the sum is 499500" in said:
        return 0
    print((logs / "stderr").read_text(), file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
