"""Errors of an S3 server and of the way to it, as categories with a sentence.

A table, not a chain: the server's error code decides; what has no code failed before the server answered.
"""

import contextlib
from collections.abc import Iterator

from botocore import exceptions as boto
from botocore.exceptions import BotoCoreError, ClientError
from s3transfer.exceptions import S3UploadFailedError

from quantization_api.failures import Category, QuantizationError
from quantizer.store.interface import Place, PreconditionFailedError

DENIED = {
    "401": "the server does not accept the credentials",
    "403": "access denied",
    "AccessDenied": "access denied",
    "AllAccessDisabled": "access denied",
    "AccountProblem": "the account is not usable",
    "ExpiredToken": "the session token has expired",
    "ExpiredTokenException": "the session token has expired",
    "Forbidden": "access denied",
    "InvalidAccessKeyId": "the server does not know the access key",
    "InvalidToken": "the session token is not valid",
    "NotSignedUp": "the account is not usable",
    "RequestTimeTooSkewed": "the clock of this machine is wrong",
    "SignatureDoesNotMatch": "the secret key is wrong",
    "TokenRefreshRequired": "the session token has expired",
    "UnauthorizedAccess": "the server does not accept the credentials",
}
MISSING = {"404", "NoSuchKey", "NotFound", "NoSuchUpload"}
CUT_SHORT = {"416", "InvalidRange"}
PRECONDITION = {"412", "PreconditionFailed", "409", "ConditionalRequestConflict"}
REGION = {"301", "PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
FULL = {"QuotaExceeded", "XMinioStorageFull", "InsufficientStorage", "507"}

NO_CREDENTIALS = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.TokenRetrievalError,
    boto.NoAuthTokenError,
)
NO_ANSWER = (boto.HTTPClientError, boto.ResponseStreamingError, boto.IncompleteReadError, ConnectionError)
"""HTTPClientError covers connect and read timeouts, refused and closed connections, TLS and proxy errors."""


@contextlib.contextmanager
def translated(place: Place, uri: str) -> Iterator[None]:
    """Turns what boto3 raises into QuantizationError (or PreconditionFailedError)."""
    try:
        yield
    except ClientError as error:
        raise _answered(error, place, uri) from error
    except S3UploadFailedError as error:
        cause = error.__cause__ or error.__context__
        if isinstance(cause, ClientError):
            raise _answered(cause, place, uri) from error
        raise QuantizationError(Category.STORAGE_UNAVAILABLE, f"{place.what}: {uri}: {error}") from error
    except NO_CREDENTIALS as error:
        raise QuantizationError(
            Category.ACCESS_DENIED,
            f"{place.what}: no usable credentials for {uri}: {error}",
            "Name a Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in "
            "spec.storage.credentialsSecret, or set them in the environment.",
        ) from error
    except NO_ANSWER as error:
        raise QuantizationError(
            Category.STORAGE_UNAVAILABLE, f"{place.what}: {uri} cannot be reached: {error}"
        ) from error
    except BotoCoreError as error:
        raise QuantizationError(Category.STORAGE_UNAVAILABLE, f"{place.what}: {uri}: {error}") from error


def _answered(error: ClientError, place: Place, uri: str) -> Exception:
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code in PRECONDITION:
        return PreconditionFailedError(uri)
    if code in DENIED or status in (401, 403):
        return QuantizationError(
            Category.ACCESS_DENIED, f"{place.what}: {uri}: {DENIED.get(code, 'access denied')} ({code})"
        )
    if code == "NoSuchBucket":
        bucket = uri.removeprefix("s3://").partition("/")[0]
        return QuantizationError(
            place.missing,
            f"{place.what}: {uri}: there is no bucket {bucket}",
            f"Create the bucket {bucket}, or correct the URI or spec.storage.endpoint.",
        )
    if code in MISSING:
        return QuantizationError(place.missing, f"{place.what}: {uri} does not exist")
    if code in CUT_SHORT:
        return QuantizationError(
            place.damaged,
            f"{place.what}: {uri} is shorter than it was listed",
            "The object is cut short or was replaced meanwhile: copy it again.",
        )
    if code in REGION:
        return QuantizationError(
            Category.INVALID_WORKFLOW,
            f"{place.what}: {uri}: the bucket is in another region ({code})",
            "Write the bucket's region into spec.storage.region.",
        )
    if code in FULL:
        return QuantizationError(
            Category.STORAGE_UNAVAILABLE, f"{place.what}: {uri}: the storage is full ({code})"
        )
    return QuantizationError(
        Category.STORAGE_UNAVAILABLE, f"{place.what}: {uri}: the server answers {code} (HTTP {status})"
    )
