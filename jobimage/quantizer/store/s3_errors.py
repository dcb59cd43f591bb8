"""Errors of an S3 server and of the network, each with a category and a sentence.

The server's error code decides; an error without a code happened before the server answered.

    AwayError                the same request may succeed later: patience.py repeats it
    UploadLostError          the server lost an upload, or parts of it: it is started again
    FlippedError             the request arrived corrupted: it is sent again at once
    PreconditionFailedError  for the caller to judge
    QuantizationError        raised at once
"""

import contextlib
from collections.abc import Iterator
from typing import Any

from botocore import exceptions as boto
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from quantization_api.failures import Category, QuantizationError
from quantization_api.text import clean
from quantizer.store.interface import Place, PreconditionFailedError
from quantizer.store.patience import AwayError

DENIED = {
    "401": "the server rejected the credentials",
    "403": "access denied",
    "AccessDenied": "access denied",
    "AllAccessDisabled": "access denied",
    "AccountProblem": "the account cannot be used",
    "ExpiredToken": "the session token has expired",
    "ExpiredTokenException": "the session token has expired",
    "Forbidden": "access denied",
    "InvalidAccessKeyId": "the server does not know the access key",
    "InvalidToken": "the session token is not valid",
    "KMS.DisabledException": "the bucket's encryption key is disabled",
    "KMS.NotFoundException": "the bucket's encryption key does not exist",
    "NotSignedUp": "the account cannot be used",
    "RequestTimeTooSkewed": "this machine's clock is wrong",
    "SignatureDoesNotMatch": "the secret key is wrong",
    "TokenRefreshRequired": "the session token has expired",
    "UnauthorizedAccess": "the server rejected the credentials",
}
MISSING = {"404", "NoSuchKey", "NotFound"}
UPLOAD_LOST = {"NoSuchUpload", "InvalidPart", "InvalidPartOrder"}
CUT_SHORT = {"416", "InvalidRange"}
PRECONDITION = {"412", "PreconditionFailed"}
REGION = {"301", "PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
FULL = {"QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "InsufficientStorage", "507"}
FULL_WORDS = (
    "no space left",
    "disk full",
    "storage full",
    "quota exceeded",
    "no writable volumes",
    "no free volumes",
)
FLIPPED = {
    "BadDigest",
    "InvalidDigest",
    "XAmzContentChecksumMismatch",
    "XAmzContentSHA256Mismatch",
    "XMinioContentSHA256Mismatch",
}
REFUSED = {
    "NotImplemented",
    "501",
    "MethodNotAllowed",
    "405",
    "InvalidBucketName",
    "KeyTooLongError",
    "EntityTooLarge",
}
"""Codes of requests that the same server would refuse again."""
BUSY = {
    "ConditionalRequestConflict",
    "OperationAborted",
    "RequestTimeout",
    "RequestTimeoutException",
    "PriorRequestNotComplete",
    "RequestLimitExceeded",
    "BandwidthLimitExceeded",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "ThrottledException",
    "TooManyRequests",
    "TooManyRequestsException",
}
"""Codes with which a server asks to come back, whatever their HTTP status."""
BUSY_STATUS = {408, 409, 425, 429}

NO_CREDENTIALS = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.TokenRetrievalError,
    boto.NoAuthTokenError,
)
NO_ANSWER = (
    boto.ConnectionError,  # refused connections, names that are not known, TLS and proxies
    boto.HTTPClientError,  # timeouts and connections that were closed
    boto.ResponseStreamingError,
    boto.IncompleteReadError,
    ResponseParserError,  # an answer that is not XML, for example from a proxy
    ConnectionError,
)
NO_TLS = ("certificate_verify_failed", "certificate verify failed", "wrong_version_number")
"""Words in TLS errors that waiting does not fix."""


class UploadLostError(Exception):
    """The server does not know a multipart upload, or lacks parts of it."""


class FlippedError(Exception):
    """The server's checksum differs from that of the bytes sent; nothing was stored."""


@contextlib.contextmanager
def translated(place: Place, uri: str) -> Iterator[None]:
    """Turns errors of boto3 into those listed above."""
    try:
        yield
    except ClientError as error:
        raise answered(error, place, uri) from error
    except NO_CREDENTIALS as error:
        raise QuantizationError(
            Category.ACCESS_DENIED,
            f"{place.what}: no usable credentials for {uri}: {error}",
            "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment; in a cluster, name a Secret with "
            "them in spec.storage.credentialsSecret.",
        ) from error
    except NO_ANSWER as error:
        raise _unanswered(error, place, uri) from error
    except BotoCoreError as error:
        raise QuantizationError(Category.STORAGE_UNAVAILABLE, f"{place.what}: {uri}: {error}") from error


def code_of(error: ClientError) -> str:
    """The server's error code."""
    return str(error.response.get("Error", {}).get("Code", ""))


def answered(error: ClientError, place: Place, uri: str) -> Exception:
    """The exception for an error that the server answered."""
    code = code_of(error)
    said = clean(str(error.response.get("Error", {}).get("Message", "")), 200)
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code in PRECONDITION:
        return PreconditionFailedError(uri)
    if code in UPLOAD_LOST:
        return UploadLostError(f"{uri}: {code}")
    if code in FLIPPED:
        return FlippedError(f"{uri}: {code}")
    if code in FULL or any(words in said.lower() for words in FULL_WORDS):
        return QuantizationError(
            Category.STORAGE_UNAVAILABLE,
            f"{place.what}: {uri}: the storage is full ({code}: {said})",
            "Make room in the storage, or raise the bucket's quota; the job tries again until backoffLimit.",
        )
    if code == "InvalidObjectState":
        return QuantizationError(
            place.missing, f"{place.what}: {uri} is archived", "Restore the object from the archive first."
        )
    if code in DENIED or status in (401, 403):
        why = DENIED.get(code, "access denied")
        return QuantizationError(Category.ACCESS_DENIED, f"{place.what}: {uri}: {why} ({code})")
    if code == "NoSuchBucket":
        bucket = uri.removeprefix("s3://").partition("/")[0]
        return QuantizationError(
            place.missing,
            f"{place.what}: {uri}: there is no bucket {bucket}",
            f"Create the bucket {bucket}, or correct the URI or the endpoint (spec.storage.endpoint, or --endpoint).",
        )
    if code in MISSING:
        return QuantizationError(place.missing, f"{place.what}: {uri} does not exist")
    if code in CUT_SHORT:
        return place.change(uri, "is shorter than its listed size")
    if code in REGION:
        return QuantizationError(
            Category.INVALID_WORKFLOW,
            f"{place.what}: {uri}: the bucket is in another region ({code})",
            "Name the bucket's region: spec.storage.region, or --region.",
        )
    sentence = f"{place.what}: {uri}: the server answered {code} (HTTP {status}): {said}"
    if code in BUSY or status in BUSY_STATUS or (status >= 500 and status != 501):
        return AwayError(sentence, _hint(code), _retry_after(error.response))
    if code in REFUSED:
        return QuantizationError(
            Category.INVALID_WORKFLOW,
            sentence,
            "Correct the URI or the endpoint, or use an S3 server that supports ranges, multipart uploads and "
            "conditional writes.",
        )
    return QuantizationError(Category.STORAGE_UNAVAILABLE, sentence)


def _unanswered(error: Exception, place: Place, uri: str) -> QuantizationError:
    why = clean(str(error), 300)
    if any(words in why.lower() for words in NO_TLS):
        return QuantizationError(
            Category.STORAGE_UNAVAILABLE,
            f"{place.what}: {uri}: no TLS connection: {why}",
            "Name the storage's CA certificate in spec.template.trustedCertificates (at a command line: set "
            "AWS_CA_BUNDLE to its path), or write http:// in the endpoint if the server does not use TLS.",
        )
    return AwayError(f"{place.what}: {uri} cannot be reached: {why}")


def _hint(code: str) -> str:
    if code != "InternalError":
        return ""
    return "Check the storage's log and free space: some servers answer InternalError when a disk is full."


def _retry_after(response: Any) -> float | None:
    """The server's Retry-After in seconds; a date, which S3 servers do not send, counts as none."""
    value = response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("retry-after", "")
    return float(value) if value.isdecimal() and len(value) < 6 else None
