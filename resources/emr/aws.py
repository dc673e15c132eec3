"""AWS clients that retry, and sentences for the errors of AWS."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from spark_jobs.errors import FruitsError

# Codes of errors that may pass: botocore has retried already, and a later attempt may succeed.
_TRANSIENT = frozenset(
    {
        "InternalError",
        "InternalFailure",
        "InternalServerError",
        "InternalServerException",
        "RequestLimitExceeded",
        "RequestTimeout",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)
# The same errors, by the names in the messages of the C++ SDK that pyarrow uses.
_S3_TRANSIENT = (
    "INTERNAL_FAILURE",
    "NETWORK_CONNECTION",
    "REQUEST_TIMEOUT",
    "SERVICE_UNAVAILABLE",
    "SLOW_DOWN",
)
_EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "InvalidClientTokenId", "RequestExpired"})


def client(service: str, region: str) -> Any:
    """A boto3 client that retries each call up to 10 times, at a rate that adapts to AWS's throttling."""
    import boto3
    from botocore.config import Config

    return boto3.client(
        service, region_name=region, config=Config(retries={"mode": "adaptive", "max_attempts": 10})
    )


@contextmanager
def aws_errors_named() -> Iterator[None]:
    """Turns errors of botocore and of pyarrow's S3 into a `FruitsError` that tells if a retry helps."""
    from boto3.exceptions import S3UploadFailedError
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

    try:
        yield
    except ClientError as error:
        code, message = error.response["Error"]["Code"], error.response["Error"].get("Message", "")
        if code in _TRANSIENT:
            raise FruitsError(
                f"AWS has no room for {error.operation_name} now ({code}): {message}", True
            ) from error
        if code in _EXPIRED:
            raise FruitsError(f"AWS credentials have expired ({code}): renew them. {message}") from error
        raise FruitsError(f"AWS refused {error.operation_name} ({code}): {message}") from error
    except NoCredentialsError as error:
        raise FruitsError("There are no AWS credentials: set AWS_PROFILE or AWS_ACCESS_KEY_ID.") from error
    except S3UploadFailedError as error:
        raise FruitsError(str(error)) from error
    except BotoCoreError as error:
        raise FruitsError(f"AWS could not be reached: {error}", True) from error
    except OSError as error:
        if "AWS Error" not in str(error):
            raise
        raise FruitsError(f"S3 failed: {error}", any(code in str(error) for code in _S3_TRANSIENT)) from error
