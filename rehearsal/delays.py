"""The times that EMR takes for its own part of a call, after it has answered."""

from typing import NamedTuple


class Delays(NamedTuple):
    """Times in seconds. All are 0 by default, so that tests are quick.

    - `log_seconds`: from the end of a step to its logs on S3, also where its cluster ends before. EMR takes
      up to five minutes: https://docs.aws.amazon.com/emr/latest/ManagementGuide/emr-plan-debugging.html
    - `cancel_seconds`: from a cancellation to the signal for the running step, which is CANCEL_PENDING in
      between. EMR documents no time; 30 to 90 s are usual.
    - `interface_seconds`: from the end of a cluster to the end of EMR's network interface in its subnet. EMR
      takes some minutes: https://github.com/hashicorp/terraform-provider-aws/issues/3465
    """

    log_seconds: float = 0.0
    cancel_seconds: float = 0.0
    interface_seconds: float = 0.0


NO_DELAYS = Delays()
