#!/usr/bin/env bash
# Bootstrap action of an EMR cluster: gives a node the Python environment that PYSPARK_PYTHON names.
#
#   bootstrap.sh s3://BUCKET/KEY/requirements.lock [s3://BUCKET/WHEELHOUSE/]
#
# Every package is checked against its hash in the lock. With a wheelhouse, an S3 prefix of wheels, no package
# index is asked, and the node needs no internet. It can run again: an environment that was made from the
# same lock stays, any other is made anew.
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

# YARN's containers may run as another user, who reads the environment.
umask 022

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

aws s3 cp --only-show-errors "$lock_uri" "$work/requirements.lock" ||
    fail "$lock_uri cannot be read; upload it with: fruits emr deploy"
checksum=$(sha256sum "$work/requirements.lock" | cut -d ' ' -f 1)

# Written last, so an environment without it is not whole.
complete=$VENV/made-from-lock-$checksum
if [[ ! -e $complete ]]; then
    # The minor version of Dagster's Python on the driver's side: Spark refuses any other.
    command -v python3.11 >/dev/null || fail "this node has no python3.11; make the cluster with EMR 7.13.0"
    parent=$(dirname "$VENV")
    # EMR runs bootstrap actions as hadoop, who may not write to /opt but may use sudo.
    mkdir -p "$parent" 2>/dev/null || sudo install -d -o "$(id -un)" "$parent"
    python3.11 -m venv --clear "$VENV"
    from_where=()
    if [[ -n $wheelhouse_uri ]]; then
        aws s3 cp --only-show-errors --recursive "$wheelhouse_uri" "$work/wheelhouse" ||
            fail "$wheelhouse_uri cannot be read; upload it with: fruits emr deploy --wheelhouse"
        from_where=(--no-index --find-links "$work/wheelhouse")
    fi
    # A wheel runs nothing when it is installed; a source package would.
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-cache-dir \
        --only-binary :all: --require-hashes "${from_where[@]}" --requirement "$work/requirements.lock" ||
        fail "pip could not install $lock_uri ${wheelhouse_uri:+from $wheelhouse_uri}"
    "$VENV/bin/python" -m pip check --disable-pip-version-check >/dev/null ||
        fail "the packages of $lock_uri do not fit together"
    touch "$complete"
fi
echo "fruits bootstrap: ready: $VENV has $("$VENV/bin/python" --version) and the packages of $lock_uri"
