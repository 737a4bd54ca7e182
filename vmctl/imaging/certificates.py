"""What is wrong with a server's certificate, in one sentence, by OpenSSL's own codes."""

from __future__ import annotations

import ssl

from vmctl.errors import ImageError

__all__ = ["certificate_error"]

# X509_V_ERR_* of OpenSSL's x509_vfy.h (X509_STORE_CTX_get_error(3)).
_NOT_YET_VALID, _EXPIRED = 9, 10
_UNKNOWN_ISSUERS = frozenset({2, 18, 19, 20, 21, 27})
_OTHER_NAMES = frozenset({62, 64})
_HINT_CLOCK = "see whether the clock of this machine is right; if it is, name another mirror"
_HINT_NAME = "name the server as its certificate does; if that is right, somebody is in between"
_HINT_ISSUER = (
    "if it is a site's own, let SSL_CERT_FILE name a file with its authority's certificate, or add "
    "that to this machine's store"
)


def certificate_error(error: BaseException, host: str) -> ImageError | None:
    """Return what to say if a server's certificate is what made a connection fail.

    Args:
        error: What an HTTP client raised.
        host: Whom it connected to.
    """
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLCertVerificationError):
        cause = cause.__cause__ or cause.__context__
    if cause is None:
        return None
    code = cause.verify_code
    if code in _UNKNOWN_ISSUERS:
        why, hint = "nobody whom this machine trusts has signed it", _HINT_ISSUER
    elif code in _OTHER_NAMES:
        why, hint = "it is of a server of another name", _HINT_NAME
    elif code == _EXPIRED:
        why, hint = "it has expired", _HINT_CLOCK
    elif code == _NOT_YET_VALID:
        why, hint = "it is not valid yet", _HINT_CLOCK
    else:
        why, hint = "it can't be verified", _HINT_ISSUER
    return ImageError(
        f"the certificate of {host} is refused: {why}", details=cause.verify_message, hint=hint
    )
