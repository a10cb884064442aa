"""What S3 servers and boto3 say, in our words: what, where, how to fix. A server's own text is never repeated: it may
quote the request, and a request is signed with credentials.
"""

from __future__ import annotations

from orchestrator.core.errors import MissingError, StudyError, VolumeError

AGAIN = "what is stored stays; the same command goes on"
CREDENTIALS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE to a profile of ~/.aws"
_FAILING = ("the server fails", f"try again later: {AGAIN}")
_REFUSED = ("the server does not accept the credentials", f"check them: {CREDENTIALS}")
_ELSEWHERE = ("the bucket is in another region", "add region=NAME to the volume's address")
_FULL = ("there is no space left", f"make room or enlarge the volume: {AGAIN}")
_UNKNOWN = ("the server does not know this request", "check the dialect in the volume's address")

ANSWERS = {
    "NoSuchBucket": ("there is no such bucket", "create it, or correct the volume's address"),
    "InvalidAccessKeyId": _REFUSED,
    "SignatureDoesNotMatch": _REFUSED,
    "InvalidSecurity": _REFUSED,
    "InvalidToken": _REFUSED,
    "ExpiredToken": ("the credentials have expired", f"renew them: {AGAIN}"),
    "AccessDenied": (
        "access is denied",
        "allow s3:ListBucket on the bucket; s3:GetObject, s3:PutObject, s3:DeleteObject and "
        "s3:AbortMultipartUpload on its objects",
    ),
    "RequestTimeTooSkewed": ("the server's clock and this machine's are too far apart", "set this machine's clock"),
    "PermanentRedirect": _ELSEWHERE,
    "AuthorizationHeaderMalformed": _ELSEWHERE,
    "IllegalLocationConstraintException": _ELSEWHERE,
    "InsufficientStorage": _FULL,
    "QuotaExceeded": _FULL,
    "BadDigest": ("the upload did not arrive as it was sent, or the file changed meanwhile", AGAIN),
    "NotImplemented": _UNKNOWN,
    "MethodNotAllowed": _UNKNOWN,
    "SlowDown": _FAILING,
    "ServiceUnavailable": _FAILING,
    "InternalError": _FAILING,
}
STATUSES = {
    301: ANSWERS["PermanentRedirect"],
    403: ANSWERS["AccessDenied"],
    405: _UNKNOWN,
    501: _UNKNOWN,
    507: _FULL,
}


PASSING = ("SlowDown", "RequestTimeout", "Throttling", "ThrottlingException", "TooManyRequests")


def failures() -> tuple[type[Exception], ...]:
    """All that a request, or reading its answer, can raise."""
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError
    from urllib3.exceptions import HTTPError

    return (ClientError, BotoCoreError, ResponseParserError, HTTPError, ConnectionError, TimeoutError)


def may_pass(error: Exception) -> bool:
    """Whether the same request may succeed a little later: the server or the connection failed, not the request."""
    from botocore import exceptions as b

    if isinstance(error, b.ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        code = error.response.get("Error", {}).get("Code", "")
        return code in PASSING or status == 429 or (status >= 500 and status not in STATUSES)
    if isinstance(error, b.BotoCoreError):
        lasting = isinstance(error, b.SSLError | b.ProxyConnectionError)
        return isinstance(error, b.HTTPClientError | b.ConnectionError) and not lasting
    return True


def explain(error: Exception, where: str, attempts: int) -> StudyError:
    """The StudyError for what botocore raised while speaking to `where`: MissingError or VolumeError."""
    from botocore import exceptions as b
    from botocore.parsers import ResponseParserError
    from urllib3.exceptions import HTTPError
    from urllib3.exceptions import TimeoutError as NoAnswer

    if isinstance(error, b.ClientError):
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        known = ANSWERS.get(code) or STATUSES.get(status) or (_FAILING if status >= 500 else None)
        what, fix = known or ("the server refuses", "check the volume's address and dialect")
        return VolumeError(f"{what} (HTTP {status}{f', {code}' if not code.isdigit() else ''})", where=where, fix=fix)
    if isinstance(error, b.NoCredentialsError | b.PartialCredentialsError):
        return MissingError("there are no credentials for this volume", where=where, fix=CREDENTIALS)
    if isinstance(error, b.ProfileNotFound | b.CredentialRetrievalError | b.TokenRetrievalError | b.ConfigParseError):
        return MissingError("the credentials for this volume cannot be read", where=where, fix=CREDENTIALS)
    if isinstance(error, b.SSLError):
        return VolumeError("the server's certificate is not trusted", where=where, fix="check the endpoint")
    if isinstance(error, b.ReadTimeoutError | b.ConnectTimeoutError | NoAnswer | TimeoutError):
        return VolumeError(f"no answer in {attempts} tries", where=where, fix=f"look after the network: {AGAIN}")
    if isinstance(error, b.HTTPClientError | b.ConnectionError | HTTPError | OSError):
        what = f"no connection that lasts in {attempts} tries ({type(error).__name__})"
        return VolumeError(what, where=where, fix=f"check the endpoint and the network: {AGAIN}")
    if isinstance(error, ResponseParserError):
        return VolumeError("the server does not answer as S3 does", where=where, fix="check the endpoint")
    return VolumeError(f"boto3 cannot speak to it ({type(error).__name__})", where=where, fix="check the address")
