"""How errors of AWS are told, and whether a retry is said to help."""

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError

from resources.emr.aws import aws_errors_named
from spark_jobs.errors import FruitsError


def refused(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "so it is"}}, "DescribeStep")


@pytest.mark.parametrize(
    ("error", "words", "retry_helps"),
    [
        (
            refused("ThrottlingException"),
            "no room for DescribeStep now (ThrottlingException): so",
            True,
        ),
        (refused("SlowDown"), "no room for DescribeStep now", True),
        (refused("InternalServerException"), "no room for DescribeStep now", True),
        (refused("ExpiredTokenException"), "credentials have expired (ExpiredTokenException): renew", False),
        (refused("AccessDeniedException"), "refused DescribeStep (AccessDeniedException): so it", False),
        (NoCredentialsError(), "set AWS_PROFILE or AWS_ACCESS_KEY_ID", False),
        (EndpointConnectionError(endpoint_url="https://emr"), "could not be reached", True),
        (OSError("When getting 'a': AWS Error SLOW_DOWN during GetObject"), "S3 failed: When", True),
        (OSError("When getting 'a': AWS Error ACCESS_DENIED during GetObject"), "S3 failed: When", False),
    ],
)
def test_an_error_says_what_happened_and_whether_to_try_again(
    error: Exception, words: str, retry_helps: bool
) -> None:
    with pytest.raises(FruitsError) as raised, aws_errors_named():
        raise error
    assert words in str(raised.value)
    assert raised.value.retry_helps == retry_helps


def test_an_error_that_is_not_of_aws_stays_itself() -> None:
    with pytest.raises(FileNotFoundError), aws_errors_named():
        raise FileNotFoundError("no such file")
