"""The sentences for errors of AWS, and whether they tell that a retry helps."""

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError

from resources.emr.aws import aws_errors_named
from spark_jobs.errors import FruitsError


def client_error(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "too many calls"}}, "DescribeStep")


@pytest.mark.parametrize(
    ("error", "words", "retry_helps"),
    [
        (
            client_error("ThrottlingException"),
            "no room for DescribeStep now (ThrottlingException): too",
            True,
        ),
        (client_error("SlowDown"), "no room for DescribeStep now", True),
        (client_error("InternalServerException"), "no room for DescribeStep now", True),
        (
            client_error("ExpiredTokenException"),
            "credentials have expired (ExpiredTokenException): renew",
            False,
        ),
        (
            client_error("AccessDeniedException"),
            "refused DescribeStep (AccessDeniedException): too many",
            False,
        ),
        (NoCredentialsError(), "set AWS_PROFILE or AWS_ACCESS_KEY_ID", False),
        (EndpointConnectionError(endpoint_url="https://emr"), "could not be reached", True),
        (OSError("When getting 'a': AWS Error SLOW_DOWN during GetObject"), "S3 failed: When", True),
        (OSError("When getting 'a': AWS Error ACCESS_DENIED during GetObject"), "S3 failed: When", False),
    ],
)
def test_an_error_of_aws_becomes_a_sentence_with_its_retry(
    error: Exception, words: str, retry_helps: bool
) -> None:
    with pytest.raises(FruitsError) as raised, aws_errors_named():
        raise error
    assert words in str(raised.value)
    assert raised.value.retry_helps == retry_helps


def test_other_errors_are_raised_unchanged() -> None:
    with pytest.raises(FileNotFoundError), aws_errors_named():
        raise FileNotFoundError("no such file")
