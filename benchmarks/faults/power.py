"""Power cuts: jobs write to a file system on a loop device, whose image is copied at the moment of the cut.

The copy holds what the disk has received. Data in the page cache of the mounted file system, which a killed
process would leave to be written, is not in it. Mounting needs root.
"""

import json
import subprocess
import time
from typing import Any

from benchmarks.faults.check import torn
from benchmarks.faults.findings import Finding
from benchmarks.faults.jobs import versions
from benchmarks.faults.kills import jobs_command
from benchmarks.faults.mounts import new_image, of_image
from benchmarks.faults.workplace import Workplace, kill_all, start

IMAGE_BYTES = 400_000_000
JOBS = 4
# The seconds between the end of a job and the cut.
PAUSES = (0.0, 1.0)


def power_cut(place: Workplace, number: int) -> Finding:
    """The content of the disk after a cut. One run of the four jobs serves eight rounds."""
    moment = number % (JOBS * len(PAUSES))
    image = place.folder / f"moment-{moment}.img"
    if not image.exists():
        photos = place.photos(12, 8)
        _run_and_copy(place, jobs_command(place, photos, place.folder / "disk" / "store"))
    said: dict[str, Any] = json.loads(image.with_suffix(".json").read_text())
    mounted = place.folder / "after"
    with of_image(image, mounted):
        found, kept = torn(str(mounted / "store")), versions(str(mounted / "store"))
    image.unlink()
    return Finding(
        fault=f"a power cut {said['pause']:.0f} s after the job {said['job']}",
        torn=found,
        wrong=[
            f"lost: {output}, {label}"
            for output, classes in said["versions"].items()
            for label, version in classes.items()
            if kept.get(output, {}).get(label) != version
        ],
    )


def _run_and_copy(place: Workplace, command: list[str]) -> None:
    """Runs the jobs on a new file system, and copies its image twice after each job."""
    image, disk = place.folder / "disk.img", place.folder / "disk"
    new_image(image, IMAGE_BYTES)
    with of_image(image, disk):
        process = start(command)
        assert process.stdin is not None and process.stdout is not None
        try:
            for job in range(JOBS):
                line = next(text for text in process.stdout if text.startswith("{"))
                for number, pause in enumerate(PAUSES):
                    time.sleep(pause)
                    copy = place.folder / f"moment-{job * len(PAUSES) + number}.img"
                    subprocess.run(["cp", "--sparse=always", image, copy], check=True)
                    copy.with_suffix(".json").write_text(json.dumps({**json.loads(line), "pause": pause}))
                process.stdin.write("\n")
                process.stdin.flush()
            process.wait()
        finally:
            kill_all(process)
