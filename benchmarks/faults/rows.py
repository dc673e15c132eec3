"""The rows of the table of faults, by name."""

from benchmarks.faults.findings import FaultRow
from benchmarks.faults.flips import flipped_bit
from benchmarks.faults.full import CASES as FULL
from benchmarks.faults.full import full_disk
from benchmarks.faults.hostile import hostile_files
from benchmarks.faults.kills import killed_csv_job, killed_run
from benchmarks.faults.many_classes import PARTS, many_classes
from benchmarks.faults.power import power_cut
from benchmarks.faults.refused import CASES as REFUSED
from benchmarks.faults.refused import refused
from benchmarks.faults.s3_faults import S3_ROUNDS, s3_fault
from benchmarks.faults.writers import two_writers

ROWS = {
    "kills": FaultRow(
        "A process is killed",
        "readers see whole commits; a rerun's store equals that of an undisturbed run",
        60,
        killed_run,
    ),
    "csv-kills": FaultRow(
        "The job that writes CSVs is killed as it replaces them",
        "each CSV is what its pointer says",
        17,
        killed_csv_job,
    ),
    "writers": FaultRow(
        "Two runs write at once, and a reader reads",
        "readers see whole commits; nothing is mixed at the end",
        20,
        two_writers,
    ),
    "full": FaultRow(
        "A disk is full",
        "a message names the folder with its setting; a run after making room completes",
        len(FULL),
        full_disk,
    ),
    "refused": FaultRow(
        "A folder is read-only, not permitted, or unmounted",
        "a message names the folder with its setting; nothing is half-written; a run afterwards completes",
        len(REFUSED),
        refused,
    ),
    "hostile": FaultRow(
        "500 hostile files lie beside good photos",
        "no crash, no hang; each file is accepted without its metadata or has a reason; good photos "
        "keep their features; memory is bounded",
        5,
        hostile_files,
    ),
    "s3": FaultRow(
        "S3 fails, is slow, stands still or refuses",
        "done, or a sentence that says what to do; nothing lost, and a rerun completes",
        S3_ROUNDS,
        s3_fault,
    ),
    "many": FaultRow(
        "100,000 photos in 2,000 classes",
        "runs, commands, the pages of the UI and the ticks of the sensors end before a person or Dagster "
        "gives up",
        len(PARTS),
        many_classes,
    ),
    "power": FaultRow(
        "The power fails",
        "the store opens; nothing current is torn; all that a job said was done is there",
        24,
        power_cut,
    ),
    "flips": FaultRow(
        "A bit flips on the disk",
        "the damage is named or mended, never a wrong feature",
        50,
        flipped_bit,
    ),
}
