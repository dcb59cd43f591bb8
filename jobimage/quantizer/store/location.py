"""URIs of storage: s3://BUCKET/PREFIX, file:///PATH, and plain paths."""

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from quantization_api.failures import Category, QuantizationError
from quantization_api.pod import StorageAccess
from quantizer.store.interface import Place, Store
from quantizer.store.patience import Patience

BUCKET = re.compile(r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")


@dataclass(frozen=True)
class Location:
    """A parsed URI."""

    bucket: str | None
    """None for a local path."""
    path: str
    """In a bucket, without a leading slash."""

    @classmethod
    def parse(cls, uri: str) -> "Location":
        """Takes s3://BUCKET/KEY, file:///PATH or a path.

        Raises:
            QuantizationError: InvalidWorkflow for another scheme, or a URI without a bucket or key.
        """
        if uri.startswith("s3://"):
            bucket, _, key = uri[len("s3://") :].partition("/")
            if not BUCKET.match(bucket) or not key.strip("/"):
                raise QuantizationError(
                    Category.INVALID_WORKFLOW, f"{uri} is not of the form s3://BUCKET/PREFIX"
                )
            return cls(bucket, key.strip("/"))
        if uri.startswith("file://"):
            path = uri[len("file://") :]
            if not path.startswith("/"):
                raise QuantizationError(
                    Category.INVALID_WORKFLOW, f"{uri} names a host; write file:///PATH with three slashes"
                )
            return cls(None, str(Path(path)))
        if "://" in uri:
            raise QuantizationError(
                Category.INVALID_WORKFLOW, f"{uri} has an unknown scheme; write s3://BUCKET/PREFIX or a path"
            )
        return cls(None, str(Path(uri).absolute()))

    @classmethod
    def of_input(cls, uri: str) -> "Location":
        """As `parse`, but %20 and the like in a file:// URI stand for what they encode, as other software writes them.

        An output is taken as it is written: the API server compares it that way.

        Raises:
            QuantizationError: InvalidWorkflow, also where the path that is encoded could not be printed.
        """
        if not uri.startswith("file://"):
            return cls.parse(uri)
        path = unquote(uri, errors="surrogateescape")
        if not path.isprintable() and uri.isprintable():
            raise QuantizationError(
                Category.INVALID_WORKFLOW,
                f"{uri} encodes a path that is no printable text; write the path itself",
            )
        return cls.parse(path)

    @property
    def uri(self) -> str:
        """The location as a URI."""
        return f"s3://{self.bucket}/{self.path}" if self.bucket else f"file://{self.path}"

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]

    @property
    def parent(self) -> "Location":
        """The location that contains this one; for a key without a slash, the root of its bucket."""
        return Location(self.bucket, self.path.rpartition("/")[0] or ("" if self.bucket else "/"))

    def child(self, name: str) -> "Location":
        """A location below this one."""
        return Location(self.bucket, f"{self.path}/{name}".replace("//", "/"))

    def overlaps(self, other: "Location") -> bool:
        """Whether one contains the other, or both are the same."""
        if self.bucket != other.bucket:
            return False
        one, two = (place.path.rstrip("/") + "/" for place in (self, other))
        return one.startswith(two) or two.startswith(one)


def open_store(
    location: Location, place: Place, access: StorageAccess, patience: Patience | None = None
) -> Store:
    """The store with this root. Nothing is read yet.

    patience: shared by all stores of a run; by default, a new one with the access's budget.

    Raises:
        QuantizationError: InvalidWorkflow for an endpoint that cannot be used.
    """
    waiting = patience or Patience(access.patience_seconds)
    # boto3 and numpy take half a second to import: not for the commands that only look at a path
    if location.bucket is None:
        from quantizer.store.directory import DirectoryStore

        return DirectoryStore(Path(location.path), place, waiting)
    from quantizer.store.s3 import S3Store

    return S3Store(location.bucket, location.path, place, access, waiting)
