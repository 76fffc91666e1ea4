"""S3 and what speaks like it, through boto3 (`pip install boto3`; it is not among this program's requirements).

Credentials and region come from where boto3 looks: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_REGION`, ….
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sdwebui_api.errors import BadRequest
from sdwebui_api.storage.objects import (
    CONNECT_SECONDS,
    READ_SECONDS,
    Missing,
    Trouble,
    check_etag,
    md5,
    passing_status,
    read_limited,
)

_PASSING_CODES = frozenset({"BadDigest", "InvalidDigest", "RequestTimeout", "IncompleteBody"})
_POOL = 16


class S3Bucket:
    """One bucket. Safe to share between threads."""

    scheme = "s3"

    def __init__(
        self, endpoint: str | None, name: str, *, timeout: tuple[float, float] = (CONNECT_SECONDS, READ_SECONDS)
    ) -> None:
        """`endpoint`: None for Amazon's own. Raises BadRequest when boto3 or credentials are missing."""
        self.name = name
        self._client = _client(endpoint, timeout)

    def put(self, key: str, data: bytes, content_type: str) -> None:
        digest = base64.b64encode(md5(data).digest()).decode()
        with _in_our_words():
            answer = self._client.put_object(
                Bucket=self.name, Key=key, Body=data, ContentType=content_type, ContentMD5=digest
            )
        encrypted = "kms" in answer.get("ServerSideEncryption", "")
        check_etag(answer.get("ETag"), data, encrypted=encrypted)

    def get(self, key: str, max_bytes: int) -> bytes:
        with _in_our_words():
            answer = self._client.get_object(Bucket=self.name, Key=key)
            with answer["Body"] as body:
                return read_limited(body.read, max_bytes, answer.get("ContentLength"))

    def public_url(self, key: str) -> str:
        return self.signed_url(key, 1).partition("?")[0]

    def signed_url(self, key: str, seconds: int) -> str:
        url: str = self._client.generate_presigned_url(
            "get_object", Params={"Bucket": self.name, "Key": key}, ExpiresIn=seconds
        )
        return url


def _client(endpoint: str | None, timeout: tuple[float, float]) -> Any:
    try:
        import boto3
        from botocore.config import Config
    except ImportError:
        raise BadRequest("--s3-bucket needs boto3: pip install boto3 (into .venv), then start again") from None
    config = Config(
        signature_version="s3v4",
        connect_timeout=timeout[0],
        read_timeout=timeout[1],
        max_pool_connections=_POOL,
        retries={"total_max_attempts": 1},  # `objects.Retries` tries again
        # Most servers that speak S3 know no bucket names in front of their own; checksums beyond MD5 neither.
        s3={"addressing_style": "path" if endpoint else "auto"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    session = boto3.session.Session(region_name=region)
    if session.get_credentials() is None:
        raise BadRequest("--s3-bucket needs credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    try:
        return session.client("s3", endpoint_url=endpoint, config=config)
    except ValueError as error:
        raise BadRequest(f"--s3-endpoint {endpoint}: {error}") from error


@contextmanager
def _in_our_words() -> Iterator[None]:
    """botocore's errors as Trouble and Missing."""
    from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

    try:
        yield
    except ClientError as error:
        facts, status = error.response.get("Error", {}), error.response["ResponseMetadata"]["HTTPStatusCode"]
        code = str(facts.get("Code", ""))
        if status == 404 and code != "NoSuchBucket":
            raise Missing from None
        told = f"S3 answered {status} {code} {facts.get('Message', '')}".strip()[:300]
        raise Trouble(told, passing=passing_status(status) or code in _PASSING_CODES) from error
    except (BotoCoreError, OSError) as error:
        passing = isinstance(error, HTTPClientError | OSError)
        raise Trouble(str(error)[:300], passing=passing) from error
