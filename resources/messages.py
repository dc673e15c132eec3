"""Messages to people: by Slack's incoming webhook, by e-mail, or by a topic of AWS SNS."""

import json
import smtplib
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from email.message import EmailMessage
from urllib.parse import parse_qs, unquote, urlsplit

from resources.emr.aws import aws_errors_named, client
from resources.settings import Settings
from spark_jobs.errors import FruitsError

_SECONDS = 20  # for one message

# SNS refuses a longer subject, and subjects with other characters than ASCII
# (https://docs.aws.amazon.com/sns/latest/api/API_Publish.html).
_SNS_SUBJECT = 100


def send(settings: Settings, subject: str, text: str) -> None:
    """Sends a message by each channel that the settings name.

    Raises `FruitsError` with the channels that failed, and without their addresses, which are secrets.
    `FruitsError.retry_helps` is true if no channel took the message.
    """
    channels: dict[str, Callable[[Settings, str, str], None]] = {}
    if settings.alert_slack:
        channels["FRUITS_ALERT_SLACK"] = _slack
    if settings.alert_email:
        channels["FRUITS_ALERT_EMAIL"] = _email
    if settings.alert_sns:
        channels["FRUITS_ALERT_SNS"] = _sns
    failed = {}
    for name, channel in channels.items():
        try:
            channel(settings, subject, text)
        except (OSError, smtplib.SMTPException, FruitsError) as error:
            failed[name] = _reason(error)
    if failed:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
        raise FruitsError(
            f"The message {subject!r} was not sent by {reasons}. Check the setting.",
            retry_helps=len(failed) == len(channels),
        )


def _slack(settings: Settings, subject: str, text: str) -> None:
    """https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks"""
    assert settings.alert_slack is not None
    # Slack reads <, > and & as its own marks (https://docs.slack.dev/messaging/formatting-message-text).
    plain = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    request = urllib.request.Request(
        settings.alert_slack.get_secret_value(),
        data=json.dumps({"text": plain}).encode(),
        headers={"Content-Type": "application/json"},
    )
    urllib.request.urlopen(request, timeout=_SECONDS).close()


def _email(settings: Settings, subject: str, text: str) -> None:
    assert settings.alert_email is not None
    address = urlsplit(settings.alert_email.get_secret_value())
    names = parse_qs(address.query)
    message = EmailMessage()
    message["Subject"] = " ".join(subject.split())
    message["To"] = ", ".join(names["to"])
    message["From"] = names.get("from", names["to"])[0]
    message.set_content(text)
    host, context = str(address.hostname), ssl.create_default_context()
    with (
        smtplib.SMTP_SSL(host, address.port or 465, timeout=_SECONDS, context=context)
        if address.scheme == "smtps"
        else smtplib.SMTP(host, address.port or 587, timeout=_SECONDS) as server
    ):
        if address.scheme == "smtp" and host not in ("127.0.0.1", "localhost"):
            server.starttls(context=context)
        if address.username:
            server.login(unquote(address.username), unquote(address.password or ""))
        server.send_message(message)


def _sns(settings: Settings, subject: str, text: str) -> None:
    ascii_subject = " ".join(subject.encode("ascii", "replace").decode().split())[:_SNS_SUBJECT]
    with aws_errors_named():
        client("sns", settings.region).publish(
            TopicArn=settings.alert_sns, Subject=ascii_subject, Message=text
        )


def _reason(error: Exception) -> str:
    """The reason of an error without the address of the channel."""
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, Exception):
        return _reason(error.reason)
    if isinstance(error, FruitsError | urllib.error.HTTPError):
        return str(error)
    if isinstance(error, smtplib.SMTPResponseException):
        return f"the server answered {error.smtp_code}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__
