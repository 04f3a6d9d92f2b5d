"""Seals small secrets with CLICKLEDGER_SECRET_KEY: nobody without it can read or make one.

The setting may hold several keys: the first one seals, all open, so that a key can be replaced without an outage.

AES-256-GCM under a key per purpose, derived by HKDF-SHA256, so that what was sealed for one purpose opens for no other.
Form: version byte 1, nonce of 12 random bytes, ciphertext with its tag. Random nonces are safe for 2^32 seals of a purpose.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from shared.settings import SecretSettings

_VERSION: Final = b"\x01"
_NONCE_BYTES: Final = 12  # what GCM is made for
_KEY_BYTES: Final = 32


class NotOurs(ValueError):
    """What should be opened was not sealed with this key for this purpose, or was changed since."""


class SecretBox:
    """Seals for one purpose."""

    def __init__(self, settings: SecretSettings, purpose: str) -> None:
        """`purpose` is a fixed name. Without a key in `settings`, a random one: nothing opens after a restart."""
        keys = [key.encode() for key in settings.keys] or [secrets.token_bytes(_KEY_BYTES)]
        self._ciphers = [_cipher(key, purpose) for key in keys]
        self.is_lasting = bool(settings.keys)
        """Whether other processes, and this one after a restart, open what it sealed."""

    def encrypt(self, plain: bytes, label: bytes = b"") -> bytes:
        """Seal; `label` must be the same at `decrypt` and is not part of the result (the id of a record, say)."""
        nonce = os.urandom(_NONCE_BYTES)
        return _VERSION + nonce + self._ciphers[0].encrypt(nonce, plain, label)

    def decrypt(self, sealed: bytes, label: bytes = b"") -> bytes:
        """Open. Raises NotOurs."""
        nonce, text = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
        if sealed[:1] != _VERSION or len(nonce) < _NONCE_BYTES:
            raise NotOurs("not sealed by us")
        for cipher in self._ciphers:
            with contextlib.suppress(InvalidTag):
                return cipher.decrypt(nonce, text, label)
        raise NotOurs("sealed with another key, for another purpose, or changed")

    def encrypt_text(self, plain: bytes, label: bytes = b"") -> str:
        """As `encrypt`, in URL-safe Base64 without padding: fits a cookie and a URL."""
        return urlsafe_b64encode(self.encrypt(plain, label)).rstrip(b"=").decode()

    def decrypt_text(self, sealed: str, label: bytes = b"") -> bytes:
        """As `decrypt`, from that form. Raises NotOurs."""
        try:
            raw = urlsafe_b64decode(sealed.encode("ascii") + b"=" * (-len(sealed) % 4))
        except ValueError:  # not ASCII, or no Base64
            raise NotOurs("not sealed by us") from None
        return self.decrypt(raw, label)


def _cipher(key: bytes, purpose: str) -> AESGCM:
    derive = HKDF(algorithm=SHA256(), length=_KEY_BYTES, salt=b"clickledger", info=purpose.encode())
    return AESGCM(derive.derive(key))
