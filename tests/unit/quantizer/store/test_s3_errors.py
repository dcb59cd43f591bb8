"""What each answer of an S3 server means: its category, and whether it is waited for."""

from typing import Any

import pytest
from botocore import exceptions as boto
from botocore.exceptions import ClientError
from botocore.parsers import ResponseParserError

from quantization_api.failures import Category, QuantizationError
from quantizer.store.interface import ARTIFACT, DATA, MODEL, OUTPUT, Place, PreconditionFailedError
from quantizer.store.patience import AwayError
from quantizer.store.s3_errors import FlippedError, UploadLostError, translated

pytestmark = pytest.mark.unit

URI = "s3://bucket/key"


def client_error(code: str, status: int, message: str = "", **headers: str) -> ClientError:
    said: Any = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {
            "HTTPStatusCode": status,
            "HTTPHeaders": {name.replace("_", "-"): value for name, value in headers.items()},
        },
    }
    return ClientError(said, "GetObject")


def raised(error: Exception, place: Place = MODEL) -> Exception:
    with pytest.raises(Exception) as caught, translated(place, URI):  # noqa: PT011 - the type is what is asked
        raise error
    return caught.value


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("SlowDown", 503),
        ("ServiceUnavailable", 503),
        ("503", 503),
        ("InternalError", 500),
        ("500", 500),
        ("502", 502),
        ("504", 504),
        ("429", 429),
        ("TooManyRequests", 429),
        ("Throttling", 400),
        ("RequestTimeout", 400),
        ("ConditionalRequestConflict", 409),
        ("OperationAborted", 409),
        ("409", 409),
        ("XMinioServerNotInitialized", 503),
        ("XMinioReadQuorum", 503),
    ],
)
def test_a_storage_that_asks_to_come_back_is_waited_for(code: str, status: int) -> None:
    error = raised(client_error(code, status, "please wait"))
    assert isinstance(error, AwayError)
    assert code in error.message
    assert "please wait" in error.message


@pytest.mark.parametrize(
    "error",
    [
        boto.EndpointConnectionError(endpoint_url="http://s3", error="refused"),
        boto.ConnectTimeoutError(endpoint_url="http://s3"),
        boto.ReadTimeoutError(endpoint_url="http://s3"),
        boto.ConnectionClosedError(endpoint_url="http://s3"),
        boto.ProxyConnectionError(proxy_url="http://proxy"),
        boto.SSLError(endpoint_url="https://s3", error="EOF occurred in violation of protocol"),
        boto.HTTPClientError(error="RemoteDisconnected"),
        boto.ResponseStreamingError(error="broken"),
        boto.IncompleteReadError(actual_bytes=1, expected_bytes=2),
        ResponseParserError("Unable to parse response (syntax error), invalid XML received"),
        ConnectionResetError("reset"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_who_does_not_answer_is_waited_for(error: Exception) -> None:
    assert isinstance(raised(error), AwayError)


@pytest.mark.parametrize(
    "error", ["[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed", "[SSL: WRONG_VERSION_NUMBER]"]
)
def test_a_certificate_that_nobody_trusts_is_told_at_once(error: str) -> None:
    found = raised(boto.SSLError(endpoint_url="https://s3", error=error))
    assert isinstance(found, QuantizationError)
    assert not isinstance(found, AwayError)
    assert "AWS_CA_BUNDLE" in found.hint


@pytest.mark.parametrize(
    ("code", "status", "place", "category", "words"),
    [
        ("AccessDenied", 403, MODEL, Category.ACCESS_DENIED, "access denied"),
        ("403", 403, MODEL, Category.ACCESS_DENIED, "access denied"),
        ("ExpiredToken", 400, MODEL, Category.ACCESS_DENIED, "expired"),
        ("KMS.DisabledException", 400, OUTPUT, Category.ACCESS_DENIED, "key"),
        ("InvalidObjectState", 403, MODEL, Category.MODEL_NOT_FOUND, "archived"),
        ("InvalidObjectState", 403, DATA, Category.DATA_NOT_FOUND, "archived"),
        ("NoSuchBucket", 404, MODEL, Category.MODEL_NOT_FOUND, "no bucket bucket"),
        ("NoSuchBucket", 404, OUTPUT, Category.INVALID_WORKFLOW, "no bucket bucket"),
        ("NoSuchKey", 404, DATA, Category.DATA_NOT_FOUND, "does not exist"),
        ("InvalidRange", 416, MODEL, Category.STORAGE_UNAVAILABLE, "shorter than its listed size"),
        ("InvalidRange", 416, ARTIFACT, Category.ARTIFACT_CORRUPT, "shorter than its listed size"),
        ("PermanentRedirect", 301, MODEL, Category.INVALID_WORKFLOW, "another region"),
        ("QuotaExceeded", 403, OUTPUT, Category.STORAGE_UNAVAILABLE, "full"),
        ("507", 507, OUTPUT, Category.STORAGE_UNAVAILABLE, "full"),
        ("NotImplemented", 501, OUTPUT, Category.INVALID_WORKFLOW, "NotImplemented"),
        ("EntityTooLarge", 400, OUTPUT, Category.INVALID_WORKFLOW, "EntityTooLarge"),
        ("SomethingNew", 400, OUTPUT, Category.STORAGE_UNAVAILABLE, "SomethingNew (HTTP 400)"),
    ],
)
def test_what_no_waiting_cures_is_told_at_once(
    code: str, status: int, place: Place, category: Category, words: str
) -> None:
    error = raised(client_error(code, status), place)
    assert isinstance(error, QuantizationError)
    assert not isinstance(error, AwayError)
    assert error.category is category
    assert words in error.message
    assert URI in error.message
    assert error.hint


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("PreconditionFailed", PreconditionFailedError),
        ("412", PreconditionFailedError),
        ("BadDigest", FlippedError),
        ("InvalidDigest", FlippedError),
        ("XAmzContentChecksumMismatch", FlippedError),
        ("XAmzContentSHA256Mismatch", FlippedError),
        ("NoSuchUpload", UploadLostError),
        ("InvalidPart", UploadLostError),
    ],
)
def test_what_the_caller_acts_on_is_no_failure_yet(code: str, kind: type[Exception]) -> None:
    assert type(raised(client_error(code, 400))) is kind


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("30", 30.0), ("0", 0.0), ("Wed, 21 Oct 2026 07:28:00 GMT", None), ("-1", None), ("²", None)],
)
def test_retry_after_is_a_number_of_seconds(value: str, seconds: float | None) -> None:
    error = raised(client_error("SlowDown", 503, retry_after=value))
    assert isinstance(error, AwayError)
    assert error.retry_after == seconds


def test_what_a_server_says_is_one_clean_line() -> None:
    error = raised(client_error("InternalError", 500, "a\x1b[31m\nb" + 10_000 * "x"))
    assert isinstance(error, AwayError)
    assert "\n" not in error.message
    assert "\x1b" not in error.message
    assert len(error.message) < 500
