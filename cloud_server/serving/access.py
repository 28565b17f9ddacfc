"""Who may ask: bearer tokens, of which only hashes are kept."""

import hashlib
import hmac
import logging
import secrets
from collections.abc import Iterable
from pathlib import Path

from hedge.common.errors import BadInput, Denied
from hedge.common.files import TEXT

logger = logging.getLogger(__name__)

Metadata = Iterable[tuple[str, "str | bytes"]]
ANYBODY = "anybody"


def new_token() -> str:
    return secrets.token_urlsafe(32)


def entry(name: str, token: str) -> str:
    """The line of a tokens file that lets `token` in as `name`."""
    if not name or not name.isprintable() or any(sign in name for sign in ": #"):
        raise BadInput(f"name {name!r} is empty or has a colon, a space or a #")
    return f"{name}:{hashlib.sha256(token.encode()).hexdigest()}"


class Access:
    """The clients of a tokens file, NAME:SHA256 a line; without a file everybody is let in as the
    same client.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._clients = _read(path) if path else {}

    def reload(self) -> None:
        """Reads the file again; a file that is not right changes nothing."""
        if self._path is None:
            return
        try:
            self._clients = _read(self._path)
        except BadInput as error:
            logger.warning("the tokens stay as they were: %s", error)
        else:
            logger.info("%d tokens", len(self._clients))

    def client(self, metadata: Metadata) -> str:
        """The name of whoever sent `metadata`. Denied for no token, or a wrong one."""
        if self._path is None:
            return ANYBODY
        given = [value for key, value in metadata if key == "authorization"]
        if not given:
            raise Denied("no token: give --token-file")
        word = given[0].decode("latin-1") if isinstance(given[0], bytes) else given[0]
        digest = hashlib.sha256(word.removeprefix("Bearer ").encode()).digest()
        # All are compared, so that time tells nothing.
        found = [
            name for name, known in self._clients.items() if hmac.compare_digest(known, digest)
        ]
        if not found or not word.startswith("Bearer "):
            raise Denied("this token is not known to the server")
        return found[0]


def _read(path: Path) -> dict[str, bytes]:
    try:
        lines = path.read_text(TEXT).splitlines()
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise BadInput(f"{path} is not text") from None
    clients: dict[str, bytes] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, digest = line.strip().partition(":")
        try:
            hashed = bytes.fromhex(digest)
        except ValueError:
            hashed = b""
        if not name or len(hashed) != hashlib.sha256().digest_size:
            raise BadInput(
                f"line {number} of {path} is not NAME:SHA256; hedge-cloud token NAME writes one"
            )
        if name in clients:
            raise BadInput(f"line {number} of {path} names {name} again")
        clients[name] = hashed
    return clients
