"""The quotas of EC2 in Service Quotas, which moto lacks: those of a new account, until an increase."""

import json
from typing import Any

from moto.servicequotas.exceptions import NoSuchResource
from moto.servicequotas.models import ServiceQuotasBackend
from moto.servicequotas.responses import ServiceQuotasResponse

# https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-on-demand-instances.html#ec2-on-demand-instances-limits
# and https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/using-spot-limits.html
_NAMES = {
    "L-1216C47A": "Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances",
    "L-34B43A08": "All Standard (A, C, D, H, I, M, R, T, Z) Spot Instance Requests",
}
_DEFAULT = 5.0


def install() -> None:
    """Adds EC2's quotas and RequestServiceQuotaIncrease to moto in this process.

    An increase is granted at once, where AWS takes minutes or days.
    """
    api: Any = ServiceQuotasResponse
    backend: Any = ServiceQuotasBackend
    if backend.get_service_quota is not _get:
        backend.get_other_quota, backend.get_service_quota = backend.get_service_quota, _get
        api.request_service_quota_increase = _increase


def _get(self: Any, service_code: str, quota_code: str) -> dict[str, Any]:
    if service_code != "ec2":
        return dict(self.get_other_quota(service_code, quota_code))
    if quota_code not in _NAMES:
        raise NoSuchResource
    return {
        "ServiceCode": "ec2",
        "ServiceName": "Amazon Elastic Compute Cloud (Amazon EC2)",
        "QuotaCode": quota_code,
        "QuotaName": _NAMES[quota_code],
        "QuotaArn": f"arn:aws:servicequotas:{self.region_name}:{self.account_id}:ec2/{quota_code}",
        "Value": getattr(self, "granted", {}).get(quota_code, _DEFAULT),
        "Unit": "None",
        "Adjustable": True,
        "GlobalQuota": False,
    }


def _increase(self: Any) -> str:
    asked = json.loads(self.body)
    quota = _get(self.backend, asked["ServiceCode"], asked["QuotaCode"])
    self.backend.granted = {
        **getattr(self.backend, "granted", {}),
        asked["QuotaCode"]: float(asked["DesiredValue"]),
    }
    request = {**asked, "QuotaName": quota["QuotaName"], "Status": "APPROVED"}
    return json.dumps({"RequestedQuota": request})
