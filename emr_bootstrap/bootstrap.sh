#!/usr/bin/env bash
# Bootstrap action of an EMR cluster: makes the Python environment of a node, which PYSPARK_PYTHON names.
#
#   bootstrap.sh s3://BUCKET/KEY/requirements.lock [s3://BUCKET/WHEELHOUSE/]
#
# pip checks every package against its hash in the lock. A wheelhouse is an S3 prefix with wheels. With it, pip
# uses no package index, and the node needs no internet. The script can run twice: it keeps an environment of
# the same lock, and replaces any other.
set -euo pipefail

VENV=${FRUITS_VENV:-/opt/fruits/venv}

fail() {
    echo "fruits bootstrap: FAILED: $*" >&2
    exit 1
}
trap 'fail "line $LINENO exited with status $?: $BASH_COMMAND"' ERR

[[ $# -eq 1 || $# -eq 2 ]] || fail "usage: bootstrap.sh s3://.../requirements.lock [s3://.../wheelhouse/]"
lock_uri=$1
wheelhouse_uri=${2:-}

# YARN's containers may run as another user, who must be able to read the environment.
umask 022

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

aws s3 cp --only-show-errors "$lock_uri" "$work/requirements.lock" ||
    fail "$lock_uri cannot be read; upload it with: fruits emr deploy"
checksum=$(sha256sum "$work/requirements.lock" | cut -d ' ' -f 1)

# This file is written last. An environment without it is incomplete.
complete=$VENV/made-from-lock-$checksum
if [[ ! -e $complete ]]; then
    # The packages of the lock are for this Python. Spark refuses an executor with another minor version of
    # Python than the driver's.
    # EMR's releases 7.1 and later list Python 3.11, but EMR installs applications after bootstrap actions, and
    # the image itself has Python 3.9. Amazon Linux's repository is in S3 of the region, which a private subnet
    # reaches through its S3 endpoint.
    # https://docs.aws.amazon.com/emr/latest/ManagementGuide/emr-plan-bootstrap.html
    # https://docs.aws.amazon.com/linux/al2023/ug/ec2-repo-access.html
    command -v python3.11 >/dev/null || sudo dnf install -y -q python3.11 ||
        fail "this node has no python3.11, and dnf could not install it; if the subnet is your own, let its S3" \
            "endpoint read al2023-repos-REGION-de612dc2"
    parent=$(dirname "$VENV")
    # EMR runs bootstrap actions as the user hadoop, who may not write to /opt but may use sudo.
    mkdir -p "$parent" 2>/dev/null || sudo install -d -o "$(id -un)" "$parent"
    python3.11 -m venv --clear "$VENV"
    source=()
    if [[ -n $wheelhouse_uri ]]; then
        aws s3 cp --only-show-errors --recursive "$wheelhouse_uri" "$work/wheelhouse" ||
            fail "$wheelhouse_uri cannot be read; upload it with: fruits emr deploy --wheelhouse"
        source=(--no-index --find-links "$work/wheelhouse")
    fi
    # Only wheels: to install a source package, pip would run its code.
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-cache-dir \
        --only-binary :all: --require-hashes "${source[@]}" --requirement "$work/requirements.lock" ||
        fail "pip could not install $lock_uri ${wheelhouse_uri:+from $wheelhouse_uri}"
    "$VENV/bin/python" -m pip check --disable-pip-version-check >/dev/null ||
        fail "the packages of $lock_uri need other versions of each other (pip check)"
    touch "$complete"
fi
echo "fruits bootstrap: ready: $VENV has $("$VENV/bin/python" --version) and the packages of $lock_uri"
