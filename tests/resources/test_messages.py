"""Messages by e-mail, by SNS and by Slack, to real servers on this machine."""

import json
import socketserver
import threading
from collections.abc import Iterator
from email import message_from_bytes
from email.policy import default
from pathlib import Path

import boto3
import pytest

from resources.messages import send
from resources.settings import Settings, load_settings
from spark_jobs.errors import FruitsError
from tests.s3_server import s3_bucket

SECRET = "T0/B0/secret"


class Mailbox(socketserver.StreamRequestHandler):
    """The smallest server of SMTP (RFC 5321) that takes a message."""

    messages: list[str]

    def handle(self) -> None:
        self.wfile.write(b"220 ready\r\n")
        while line := self.rfile.readline().decode().strip():
            if line.upper() == "DATA":
                self.wfile.write(b"354 go on\r\n")
                lines = iter(lambda: self.rfile.readline().decode().rstrip("\r\n"), ".")
                self.messages.append("\n".join(lines))
            self.wfile.write(b"250 ok\r\n" if line.upper() != "QUIT" else b"221 bye\r\n")


@pytest.fixture
def mailbox() -> Iterator[tuple[int, list[str]]]:
    """The port of a mail server, and the messages that it has taken."""
    messages: list[str] = []
    server = socketserver.ThreadingTCPServer(
        ("127.0.0.1", 0), type("Handler", (Mailbox,), {"messages": messages})
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1], messages
    server.shutdown()
    server.server_close()


def settings_with(**alerts: str) -> Settings:
    return Settings(images="/photos", store="/store", _env_file=None, **alerts)  # type: ignore[arg-type]


def test_a_mail_has_subject_text_sender_and_receivers(mailbox: tuple[int, list[str]]) -> None:
    port, messages = mailbox
    address = f"smtp://127.0.0.1:{port}/?from=dagster@example.org&to=ann@example.org&to=ben@example.org"
    send(settings_with(alert_email=address), "Fruits: a run\nfailed", "Kiwi failed: 3 photos are bad ü")
    mail = message_from_bytes(messages[0].encode(), policy=default)
    assert mail["Subject"] == "Fruits: a run failed"
    assert (mail["From"], mail["To"]) == ("dagster@example.org", "ann@example.org, ben@example.org")
    assert mail.get_content().strip() == "Kiwi failed: 3 photos are bad ü"


def test_a_topic_of_sns_receives_subject_and_text(tmp_path: Path) -> None:
    with s3_bucket(tmp_path):
        sns = boto3.client("sns", region_name="eu-west-3")
        sqs = boto3.client("sqs", region_name="eu-west-3")
        topic = sns.create_topic(Name="alerts")["TopicArn"]
        queue = sqs.create_queue(QueueName="people")["QueueUrl"]
        arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)
        send(settings_with(alert_sns=topic), "Fruits: Kiwi 🥝 failed " + "x" * 200, "Kiwi 🥝 failed")
        [message] = sqs.receive_message(QueueUrl=queue)["Messages"]
        body = json.loads(message["Body"])
    assert body["Message"] == "Kiwi 🥝 failed"
    assert body["Subject"].startswith("Fruits: Kiwi ? failed x")
    assert len(body["Subject"]) == 100


def test_a_channel_that_fails_stops_no_other_and_its_address_stays_secret(
    mailbox: tuple[int, list[str]],
) -> None:
    port, messages = mailbox
    settings = settings_with(
        alert_email=f"smtp://127.0.0.1:{port}/?to=ann@example.org",
        alert_slack=f"http://127.0.0.1:9/services/{SECRET}",
    )
    with pytest.raises(FruitsError, match=r"not sent by FRUITS_ALERT_SLACK: .*refused") as caught:
        send(settings, "subject", "text")
    assert SECRET not in str(caught.value)
    assert not caught.value.retry_helps  # the mail was sent
    assert len(messages) == 1
    with pytest.raises(FruitsError) as caught:
        send(settings_with(alert_slack=f"http://127.0.0.1:9/services/{SECRET}"), "subject", "text")
    assert caught.value.retry_helps


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("FRUITS_ALERT_SLACK", f"http://hooks.example.org/services/{SECRET}"),
        ("FRUITS_ALERT_SLACK", SECRET),
        ("FRUITS_ALERT_EMAIL", f"mailto:{SECRET}@example.org"),
        ("FRUITS_ALERT_EMAIL", f"smtp://ann:{SECRET}@example.org"),
    ],
)
def test_an_unusable_address_is_refused_without_showing_it(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv("FRUITS_IMAGES", "/photos")
    monkeypatch.setenv(variable, value)
    with pytest.raises(FruitsError, match=rf"^{variable}=\(hidden\): is not of the form") as caught:
        load_settings(Settings)
    assert SECRET not in str(caught.value)
