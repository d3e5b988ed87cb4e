"""A prefix of a bucket as a store, on any server that speaks S3."""

from __future__ import annotations

import hashlib
import io
import ssl
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar, cast
from urllib.parse import urlsplit

import certifi
import minio
import urllib3
from minio.credentials import EnvAWSProvider, EnvMinioProvider, IamAwsProvider, Provider, StaticProvider
from minio.error import InvalidResponseError, S3Error, ServerError

from kubedet_trainer.errors import CredentialsRefused, InvalidInput, MissingInput, StorageUnreachable
from kubedet_trainer.settings import StoreCredentials
from kubedet_trainer.storage.files import replacing
from kubedet_trainer.storage.pipe import BrokenTransfer, Pipe
from kubedet_trainer.storage.store import SMALL_BYTES, Sink, Store, StoredObject, require_small

DEFAULT_ENDPOINT = "https://s3.amazonaws.com"

_Read = TypeVar("_Read")

_TIMEOUT = urllib3.Timeout(connect=5, read=30)
_RETRY = urllib3.Retry(
    total=5,
    backoff_factor=0.5,  # waits 0, 1, 2, 4 and 8 s
    backoff_max=8,
    status_forcelist=(429, 500, 502, 503, 504),
    allowed_methods=None,  # every request of S3 may be repeated, a POST that completes an upload too
    respect_retry_after_header=False,  # keeps the waiting bounded
)
_BODY_ATTEMPTS = 3
_CHUNK_BYTES = 1 << 20
_PART_BYTES = 16 << 20
"""Of an upload; S3 takes 10,000 parts, so an object may have 156 GiB."""

_REFUSED = {
    "AccessDenied",
    "AllAccessDisabled",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "SignatureDoesNotMatch",
}
_SKEWED = "RequestTimeTooSkewed"
_MISSING = {"NoSuchBucket", "NoSuchKey", "NoSuchUpload", "ResourceNotFound"}


def open_prefix(uri: str, credentials: StoreCredentials) -> Store:
    """The prefix of a bucket at ``s3://bucket/prefix``; no connection is made yet.

    Raises:
        InvalidInput: the URI, the endpoint or the authority's certificate is malformed.
    """
    if not urlsplit(uri).netloc:
        raise InvalidInput(f"{uri}: must be s3://bucket/prefix")
    return _S3Store(uri=uri.rstrip("/"), credentials=credentials)


class _S3Store:
    """A prefix of a bucket of any S3-compatible server."""

    def __init__(self, *, uri: str, credentials: StoreCredentials) -> None:
        self.uri = uri
        parts = urlsplit(uri)
        self._bucket = parts.netloc
        self._prefix = parts.path.strip("/")
        self._endpoint = credentials.endpoint or DEFAULT_ENDPOINT
        self._client = _connect(credentials, endpoint=self._endpoint)

    def put_bytes(self, key: str, *, data: bytes) -> None:
        with self._explained(key):
            self._client.put_object(self._bucket, self._name(key), io.BytesIO(data), len(data))

    @contextmanager
    def writing(self, key: str) -> Iterator[Sink]:
        pipe = Pipe()
        with ThreadPoolExecutor(1, thread_name_prefix="upload") as thread:
            upload = thread.submit(self._upload, key, pipe)
            try:
                yield pipe
            except BrokenTransfer:
                upload.result()  # says why
                raise
            except BaseException:
                pipe.give_up()  # aborts the upload
                raise
            pipe.complete()
            upload.result()

    def get_bytes(self, key: str) -> bytes:
        def read(response: urllib3.BaseHTTPResponse) -> bytes:
            return response.read(SMALL_BYTES + 1)

        return require_small(self._get(key, read=read), where=f"{self.uri}/{key}")

    def get_file(self, key: str, *, target: Path) -> None:
        def save(response: urllib3.BaseHTTPResponse) -> None:
            with replacing(target) as file:
                for chunk in response.stream(_CHUNK_BYTES):
                    file.write(chunk)

        self._get(key, read=save)

    def sha256(self, key: str) -> str:
        def read(response: urllib3.BaseHTTPResponse) -> str:
            digest = hashlib.sha256()
            for chunk in response.stream(_CHUNK_BYTES):
                digest.update(chunk)
            return digest.hexdigest()

        return self._get(key, read=read)

    def exists(self, key: str) -> bool:
        try:
            with self._explained(key):
                self._client.stat_object(self._bucket, self._name(key))
        except MissingInput as error:
            if isinstance(error.__cause__, S3Error) and error.__cause__.code == "NoSuchBucket":
                raise
            return False
        return True

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            with self._explained(key):
                self._client.remove_object(self._bucket, self._name(key))

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        start = len(self._prefix) + 1 if self._prefix else 0
        with self._explained(prefix):
            for item in self._client.list_objects(self._bucket, self._name(prefix), recursive=True):
                if not item.is_dir:
                    yield StoredObject(key=item.object_name[start:], size=item.size)

    def sweep(self) -> None:
        """Nothing: a lifecycle rule of the bucket ends abandoned uploads (`docs/administrators/s3.md`)."""

    def _name(self, key: str) -> str:
        return f"{self._prefix}/{key}" if self._prefix else key

    def _upload(self, key: str, pipe: Pipe) -> None:
        """Store what comes through `pipe`, part by part; a part that fails is sent again by `_RETRY`."""
        try:
            with self._explained(key):
                self._client.put_object(
                    self._bucket,
                    self._name(key),
                    cast(BinaryIO, pipe),  # only `read` of it is used
                    length=-1,
                    part_size=_PART_BYTES,
                    num_parallel_uploads=1,  # threads of several would outlive an upload that fails
                )
        except BaseException:
            pipe.give_up()
            raise

    def _get(self, key: str, *, read: Callable[[urllib3.BaseHTTPResponse], _Read]) -> _Read:
        with self._explained(key):
            for attempt in range(_BODY_ATTEMPTS):
                response = self._client.get_object(self._bucket, self._name(key))
                try:
                    return read(response)
                except urllib3.exceptions.HTTPError:  # the connection broke after the answer had begun
                    if attempt == _BODY_ATTEMPTS - 1:
                        raise
                finally:
                    response.close()
                    response.release_conn()
        raise AssertionError("unreachable")

    @contextmanager
    def _explained(self, key: str) -> Iterator[None]:
        where = f"{self.uri}/{key} at {self._endpoint}"
        try:
            yield
        except S3Error as error:
            raise self._explain(error, where=where) from error
        except (InvalidResponseError, ServerError) as error:
            raise StorageUnreachable(f"{where}: {error}; check that the endpoint is an S3 server") from error
        except urllib3.exceptions.HTTPError as error:
            if _has_cause(error, ssl.SSLCertVerificationError):
                raise InvalidInput(
                    f"{where}: the server's certificate is not trusted; "
                    "give its authority as 'ca.crt' in the Secret"
                ) from error
            raise StorageUnreachable(
                f"{where}: no answer ({type(error).__name__}) after {_RETRY.total} retries; "
                "check the endpoint, the network policy and the store"
            ) from error
        except OSError as error:  # of the file that an object is written to
            raise StorageUnreachable(f"{where}: {error.strerror or error}; check the local disk") from error
        except ValueError as error:  # minio refuses impossible names of buckets and objects by itself
            raise InvalidInput(f"{where}: {error}") from error

    def _explain(self, error: S3Error, *, where: str) -> Exception:
        if error.code in _REFUSED:
            return CredentialsRefused(
                f"{where}: the store refused the credentials ({error.code}); "
                "check accessKey and secretKey of the Secret and what they may do"
            )
        if error.code == "NoSuchBucket":
            return MissingInput(f"{where}: there is no bucket '{self._bucket}'; create it or correct the URI")
        if error.code in _MISSING:
            return MissingInput(f"{where}: there is no such object; check the URI")
        if error.code == _SKEWED:
            return StorageUnreachable(
                f"{where}: the clocks of this node and of the store differ by more than the store allows "
                f"({error.code}); check the time service of both"
            )
        return StorageUnreachable(f"{where}: the store answered {error.code}; see its log")


def _has_cause(error: BaseException, kind: type[BaseException]) -> bool:
    """Whether `kind` is anywhere among what led to `error`."""
    causes = (error.__cause__, error.__context__, getattr(error, "reason", None), *error.args)
    return isinstance(error, kind) or any(
        isinstance(cause, BaseException) and cause is not error and _has_cause(cause, kind)
        for cause in causes
    )


def _connect(credentials: StoreCredentials, *, endpoint: str) -> minio.Minio:
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.path.strip("/"):
        raise InvalidInput(f"endpoint: got '{endpoint}', must be http://host:port or https://host:port")
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    if credentials.ca:
        try:
            context.load_verify_locations(cadata=credentials.ca)
        except ssl.SSLError as error:
            raise InvalidInput(f"ca.crt: must be certificates in PEM ({error.reason})") from error
    pool = urllib3.PoolManager(timeout=_TIMEOUT, retries=_RETRY, maxsize=16, ssl_context=context)
    return minio.Minio(
        parts.netloc,
        secure=parts.scheme == "https",
        http_client=pool,
        credentials=_credentials_provider(credentials, host=parts.hostname),
    )


def _credentials_provider(credentials: StoreCredentials, *, host: str) -> Provider | None:
    """The given keys, else those of the usual environment variables, else the cloud's; None: anonymous."""
    if credentials.access_key and credentials.secret_key:
        return StaticProvider(credentials.access_key, credentials.secret_key)
    for provider in (EnvAWSProvider(), EnvMinioProvider()):
        try:
            provider.retrieve()
        except ValueError:  # these variables are not set
            continue
        return provider
    return IamAwsProvider() if host.endswith(".amazonaws.com") else None
