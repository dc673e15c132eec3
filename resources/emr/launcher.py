"""The command of a step: it fetches the code, checks it, and becomes spark-submit.

    python -c THIS_FILE REGION CODE.zip ENTRY_POINT.py SPARK_SUBMIT_OPTIONS... -- ARGUMENTS...

The nodes of a cluster can write where the code lies. So the name of each file is the SHA-256 of its content,
and a file with another content is not run. The names and this program itself are arguments of the step, which
nodes cannot change.
"""

import hashlib
import os
import sys
import tempfile

import boto3

region, code, entry_point, *options = sys.argv[1:]
s3 = boto3.client("s3", region_name=region)
folder = tempfile.mkdtemp(prefix="fruits-")  # readable for this user alone
os.environ["FRUITS_CODE_FOLDER"] = folder  # the entry point removes it at its end


def fetch(uri: str) -> str:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    content = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
    name = key.rpartition("/")[2]
    found = hashlib.sha256(content).hexdigest()
    if found != name.partition(".")[0]:
        sys.exit(f"{uri} has the SHA-256 {found}: it was changed after it was uploaded, and is not run.")
    path = os.path.join(folder, name)
    with open(path, "xb") as file:
        file.write(content)
    return path


split = options.index("--")
command = ["spark-submit", *options[:split], "--py-files", fetch(code)]
os.execvp(command[0], [*command, fetch(entry_point), *options[split + 1 :]])
