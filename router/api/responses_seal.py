"""Sealed reasoning: what a client that stores nothing hands back between turns without having to understand it.

The raw reasoning is in the item as well. The seal is for clients that replay `encrypted_content` only, and it binds
the text to this server's secret and to the key that it was given to: another's, or an altered one, is refused.
"""

import base64
import hashlib
import hmac

from cryptography.fernet import Fernet, InvalidToken

from router.errors import InvalidRequest

SECRET_NAME = "reasoning"


class Seal:
    """Seals and opens reasoning for one owner."""

    def __init__(self, secret: bytes, owner: str) -> None:
        key = hmac.digest(secret, f"sealed reasoning of {owner}".encode(), hashlib.sha256)
        self._fernet = Fernet(base64.urlsafe_b64encode(key))

    def close(self, text: str) -> str:
        """Return `text` sealed, as printable characters."""
        return self._fernet.encrypt(text.encode()).decode("ascii")

    def open(self, sealed: str, what: str) -> str:
        """Return the text; raises InvalidRequest naming `what` if this server did not seal it for this owner."""
        try:
            return self._fernet.decrypt(sealed.encode()).decode()
        except InvalidToken as error:
            message = f"{what} was not sealed here for this key; leave it out, or send the reasoning's content."
            raise InvalidRequest(message, "input", "invalid_encrypted_content") from error
