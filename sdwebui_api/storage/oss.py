"""Alibaba Cloud OSS through oss2, signed as its documentation says (version 4 where the region is known, else 1).

Credentials come from `OSS_ACCESS_KEY_ID`, `OSS_ACCESS_KEY_SECRET` and, for temporary ones, `OSS_SESSION_TOKEN`.
"""

from __future__ import annotations

import base64
import importlib.util
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import requests

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

_REGION = re.compile(r"(?:^|//|\.)oss-((?:cn|us|eu|ap|me|na|rg)-[a-z0-9-]+?)(?:-internal)?\.aliyuncs\.com")
_PASSING_CODES = frozenset({"InvalidDigest", "RequestTimeout", "IncompleteBody"})
"""400s that a damaged transfer causes: the next one may be whole."""
_POOL = 16


class OssBucket:
    """One bucket. Safe to share between threads."""

    scheme = "oss"

    def __init__(
        self,
        endpoint: str,
        name: str,
        environ: Mapping[str, str] = os.environ,
        *,
        timeout: tuple[float, float] = (CONNECT_SECONDS, READ_SECONDS),
    ) -> None:
        """Raises BadRequest for credentials that are missing, or an endpoint or name that cannot be one."""
        import oss2

        # It logs every answer that is an error, with what was signed; `Retries` says the same in a line.
        logging.getLogger("oss2").setLevel(logging.WARNING)
        self.name = name
        region = environ.get("OSS_REGION") or region_of(endpoint)
        credentials = _credentials(environ)
        auth = oss2.ProviderAuthV4(credentials) if region else oss2.ProviderAuth(credentials)
        # Checksums in pure Python would take a second per picture; the MD5 in the ETag is checked anyway.
        compiled = importlib.util.find_spec("crcmod._crcfunext") is not None
        try:
            self._bucket = oss2.Bucket(
                auth,
                _with_scheme(endpoint),
                name,
                session=oss2.Session(pool_size=_POOL),
                connect_timeout=timeout,
                enable_crc=compiled,
                region=region,
            )
        except oss2.exceptions.ClientError as error:
            raise BadRequest(f"--oss-endpoint {endpoint} --oss-bucket {name}: {error.body}") from error

    def put(self, key: str, data: bytes, content_type: str) -> None:
        digest = base64.b64encode(md5(data).digest()).decode()
        with _in_our_words():
            answer = self._bucket.put_object(key, data, {"Content-Type": content_type, "Content-MD5": digest})
        encrypted = "KMS" in answer.headers.get("x-oss-server-side-encryption", "")
        check_etag(answer.headers.get("etag"), data, encrypted=encrypted)

    def get(self, key: str, max_bytes: int) -> bytes:
        with _in_our_words():
            answer = self._bucket.get_object(key)
            try:
                return read_limited(answer.read, max_bytes, answer.content_length)
            finally:
                answer.close()

    def public_url(self, key: str) -> str:
        # A signed address is the plain one and its signature.
        return self.signed_url(key, 1).partition("?")[0]

    def signed_url(self, key: str, seconds: int) -> str:
        url: str = self._bucket.sign_url("GET", key, seconds, slash_safe=True)
        return url


def region_of(endpoint: str) -> str | None:
    """`https://oss-cn-hangzhou-internal.aliyuncs.com` → `cn-hangzhou`; None: none is in the name."""
    match = _REGION.search(endpoint)
    return match[1] if match else None


def _with_scheme(endpoint: str) -> str:
    return endpoint if "://" in endpoint else f"https://{endpoint}"


def _credentials(environ: Mapping[str, str]) -> Any:
    import oss2.credentials

    names = ("OSS_ACCESS_KEY_ID", "OSS_ACCESS_KEY_SECRET")
    missing = [name for name in names if not environ.get(name)]
    if missing:
        raise BadRequest(f"--oss-bucket needs the environment variable {' and '.join(missing)}")
    key, secret = (environ[name].strip() for name in names)
    return oss2.credentials.StaticCredentialsProvider(key, secret, environ.get("OSS_SESSION_TOKEN", "").strip())


@contextmanager
def _in_our_words() -> Iterator[None]:
    """oss2's errors as Trouble and Missing."""
    from oss2 import exceptions

    try:
        yield
    except exceptions.NotFound as error:
        if error.code in ("NoSuchKey", ""):
            raise Missing from None
        raise Trouble(_told(error), passing=False) from error
    except (exceptions.RequestError, exceptions.InconsistentError) as error:
        raise Trouble(_told(error), passing=True) from error
    except exceptions.OssError as error:
        raise Trouble(_told(error), passing=passing_status(error.status) or error.code in _PASSING_CODES) from error
    except (requests.RequestException, OSError) as error:  # while a body is read
        raise Trouble(str(error)[:300], passing=True) from error


def _told(error: Any) -> str:
    """In one line; without the body, which may quote what was signed."""
    if error.status > 0:
        return f"OSS answered {error.status} {error.code} {error.message}".strip()[:300]
    return str(error.body)[:300]
