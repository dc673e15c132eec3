"""Permits calls of AWS by the policies of the caller, as AWS does, and records every decision.

moto's own enforcement knows neither ARNs nor conditions of most services, so it stays off. The rehearsal
speaks plain HTTP on loopback; the judge takes each call as if it had come by TLS.
"""

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from xml.sax.saxutils import escape

from moto.core import DEFAULT_ACCOUNT_ID

from rehearsal import permissions, s3_permissions
from rehearsal.calls import PERMISSIONS, Call, answer_error, answer_json, body_of, call_of, replace_body
from rehearsal.policies import Request, Verdict, decide
from rehearsal.principals import Principal, principal_of

Application = Callable[..., Iterable[bytes]]


class _Refused(Exception):
    """A call that AWS refuses, with the code and the message of its answer."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Judge:
    """WSGI middleware before moto. It judges calls while `judging` is true.

    The access key `trusted`, which belongs to no user, is not judged. `policies_see_new_tags` is described in
    `permissions.requests_of`.
    """

    def __init__(
        self,
        application: Application,
        trusted: str = "",
        judging: bool = False,
        policies_see_new_tags: bool = False,
    ) -> None:
        self._application = application
        self._trusted = trusted
        self.judging = judging
        self.policies_see_new_tags = policies_see_new_tags
        self._decisions: list[dict[str, Any]] = []
        self._lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"].startswith(PERMISSIONS):
            return self._control(environ, start_response)
        if not self.judging:
            return self._application(environ, start_response)
        call = call_of(environ)
        if call.access_key and call.access_key == self._trusted:
            return self._application(environ, start_response)
        try:
            principal = _caller(call)
            if call.service == "s3" and s3_permissions.deletes_objects(call):
                return self._delete_objects(environ, start_response, call, principal)
            for request in self._requests(call):
                self._permit(call, principal, request)
        except _Refused as refusal:
            return answer_error(environ, start_response, call, refusal.code, str(refusal))
        except NotImplementedError as unknown:
            self._record(call, {"principal": call.access_key, "allowed": False, "statement": str(unknown)})
            message = f"The rehearsal refuses what it cannot judge: {unknown}."
            return answer_error(environ, start_response, call, _denied(call), message)
        return self._application(environ, start_response)

    def decisions(self) -> list[dict[str, Any]]:
        """Every decision in its order, with the statement that decided it.

        The keys are service, operation, principal, action, arn, context, allowed and statement. A call that
        the judge does not know has no action. A call that needs no permission has no decision.
        """
        with self._lock:
            return list(self._decisions)

    def _requests(self, call: Call) -> list[Request]:
        if call.service == "s3":
            return s3_permissions.requests_of(call)
        return permissions.requests_of(call, self.policies_see_new_tags)

    def _permit(self, call: Call, principal: Principal, request: Request) -> None:
        """Raises `_Refused` where the policies do not allow a request of a call."""
        full = _with_context(call, principal, request)
        verdict, ending = _verdict(call, principal, full)
        self._record(
            call,
            {
                "principal": principal.arn,
                "action": full.action,
                "arn": full.resource,
                "context": dict(full.context),
                "allowed": verdict.allowed,
                "statement": verdict.statement,
            },
        )
        if not verdict.allowed:
            raise _Refused(
                _denied(call),
                f"User: {principal.arn} is not authorized to perform: {request.action} on resource: "
                f"{request.resource} {ending}",
            )

    def _delete_objects(
        self, environ: dict[str, Any], start_response: Callable[..., Any], call: Call, principal: Principal
    ) -> Iterable[bytes]:
        """Deletes the objects that the caller may delete. As in S3, the answer names the refused objects."""
        allowed, errors = [], []
        for entry, request in s3_permissions.deletions(call, body_of(environ)):
            try:
                self._permit(call, principal, request)
                allowed.append(entry)
            except _Refused as refusal:
                fields = {**entry, "Code": refusal.code, "Message": str(refusal)}
                errors.append(f"<Error>{_elements(fields)}</Error>")
        if not errors:
            return self._application(environ, start_response)
        if not allowed:
            replace_body(environ, b"")
            start_response("200 OK", [("Content-Type", "application/xml")])
            return [f"<DeleteResult>{''.join(errors)}</DeleteResult>".encode()]
        objects = "".join(f"<Object>{_elements(entry)}</Object>" for entry in allowed)
        replace_body(environ, f"<Delete>{objects}</Delete>".encode())
        answered: list[Any] = []

        def without_length(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            answered.extend((status, [each for each in headers if each[0].lower() != "content-length"]))
            return lambda _: None

        body = b"".join(self._application(environ, without_length))
        start_response(*answered)
        return [body.replace(b"</DeleteResult>", f"{''.join(errors)}</DeleteResult>".encode())]

    def _record(self, call: Call, decision: dict[str, Any]) -> None:
        with self._lock:
            self._decisions.append({"service": call.service, "operation": call.operation, **decision})

    def _control(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] == "POST":
            self.judging = True
        return answer_json(start_response, self.decisions())


def _caller(call: Call) -> Principal:
    if not call.access_key:
        raise _Refused("AccessDenied", "Access Denied: the call has no signature.")
    principal = principal_of(call.access_key)
    if principal is None:
        code = "InvalidAccessKeyId" if call.service == "s3" else "InvalidClientTokenId"
        raise _Refused(code, "The AWS Access Key Id you provided does not exist in our records.")
    return principal


def _denied(call: Call) -> str:
    """The code of a refusal, which differs between the protocols of AWS."""
    if "x-amz-target" in call.headers:
        return "AccessDeniedException"
    return "UnauthorizedOperation" if call.service == "ec2" else "AccessDenied"


def _with_context(call: Call, principal: Principal, request: Request) -> Request:
    """The request with the condition keys that every call has."""
    context = {
        **principal.context,
        "aws:RequestedRegion": call.region,
        "aws:SecureTransport": "true",
        "aws:ResourceAccount": DEFAULT_ACCOUNT_ID,
        **(principal.network.context if principal.network and call.service == "s3" else {}),
        **request.context,
    }
    return request._replace(context=context, principals=principal.names)


def _verdict(call: Call, principal: Principal, request: Request) -> tuple[Verdict, str]:
    """The decision of all policies, and the end of AWS's message for a refusal.

    Where caller and bucket belong to one account, the caller's policies or the bucket's allow, and both can
    deny. The policy of a network's endpoint must allow too. AWS's messages are those of
    https://docs.aws.amazon.com/IAM/latest/UserGuide/troubleshoot_access-denied.html.
    """
    identity = decide(principal.policies, request)
    kinds = [("an identity-based policy", identity)]
    if call.service == "s3" and (policy := s3_permissions.bucket_policy(call)) is not None:
        kinds.append(("a resource-based policy", decide({"the bucket's policy": policy}, request)))
    if call.service == "s3" and principal.network is not None:
        endpoint = decide({"the endpoint's policy": principal.network.policy}, request)
        if not endpoint.allowed:
            return endpoint, f"because no VPC endpoint policy allows the {request.action} action"
    for kind, verdict in kinds:
        if verdict.effect == "Deny":
            return verdict, f"with an explicit deny in {kind}"
    for _, verdict in kinds:
        if verdict.allowed:
            return verdict, ""
    return identity, f"because no identity-based policy allows the {request.action} action"


# XML reads a carriage return, which a key may have, as a new line.
_RETURN = {"\r": "&#13;"}


def _elements(fields: Mapping[str, str]) -> str:
    return "".join(f"<{name}>{escape(value, _RETURN)}</{name}>" for name, value in fields.items())
