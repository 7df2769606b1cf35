"""Who may talk to whom: the cluster secret, the node's own key pair, the proof, and the keys that have proved it.

Everything is derived from one generated secret; nothing here opens a socket. Without a secret a node talks to its own
machine only. The ZAP handler (zap.py) and the served side (served.py) ask this module; the rules are in
docs/PROTOCOL.md, "Security".
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hmac
import logging
import os
import secrets
from collections import OrderedDict
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path

import zmq
from zmq.utils import z85

from mynosql.address import ANY_HOST, Address
from mynosql.errors import AddressInvalid, OptionInvalid, StorageCorrupt, StorageFailed

log = logging.getLogger("mynosql")

SECRET_VARIABLE = "MYNOSQL_SECRET"
SECRET_PREFIX = "mynosql-1-"
"""Tells the secret from a passphrase and from a path, and lets scanners of repositories find one."""
SECRET_BYTES = 25
"""200 random bits: 40 more than the least that DESIGN asks for, and a round 48 characters with the checksum."""
CHECKSUM_BYTES = 5

KEYS_FILE = "keys"
PROVEN_FILE = "proven"
PROVEN_KEYS_MAX = 10_000
"""Nodes that proved the secret and are remembered: more than a mirror serves, 650 kB on disk."""

LOCAL_HOST = "127.0.0.1"

THREE_WAYS = (
    "make a secret with `mynosql keygen` and give it to every node (secret=, $MYNOSQL_SECRET or a file of mode 0600), "
    "or use a loopback address, or say insecure=True, and anyone who reaches the port reads and writes"
)


def keygen() -> str:
    """A new cluster secret: 200 random bits, a prefix and a checksum, 58 characters."""
    raw = secrets.token_bytes(SECRET_BYTES)
    return SECRET_PREFIX + base64.b32encode(raw + _checksum(raw)).decode().lower()


def _checksum(raw: bytes) -> bytes:
    return blake2b(raw, digest_size=CHECKSUM_BYTES, person=b"mynosql-check").digest()


class ClusterSecret:
    """What all nodes of one mesh share. Its text is never shown, not in errors either."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        # Any 32 bytes are a Curve25519 secret: both libsodium and tweetnacl clamp them when they multiply.
        self.server_secret_key = z85.encode(blake2b(raw, digest_size=32, person=b"mynosql-server").digest())
        self.server_public_key = zmq.curve_public(self.server_secret_key)
        self._proof_key = blake2b(raw, digest_size=32, person=b"mynosql-proof").digest()

    def __repr__(self) -> str:
        return f"ClusterSecret(fingerprint={self.fingerprint})"

    @property
    def fingerprint(self) -> str:
        """Tells secrets apart without giving anything of them away: 16 hex digits."""
        return blake2b(self.server_public_key, digest_size=8, person=b"mynosql-finger").hexdigest()

    @classmethod
    def parse(cls, text: str) -> ClusterSecret:
        """The secret in the text that keygen() made. Raises OptionInvalid for anything else, passphrases above all."""
        stripped = text.strip() if isinstance(text, str) else ""
        if not stripped.lower().startswith(SECRET_PREFIX):
            raise OptionInvalid(
                f"the secret is no secret made by `mynosql keygen` (those begin with {SECRET_PREFIX!r}): a passphrase "
                "that a person thought of is found by trying, with one captured packet and no network"
            )
        try:
            data = base64.b32decode(stripped[len(SECRET_PREFIX):].upper())
        except binascii.Error:
            data = b""
        raw, checksum = data[:SECRET_BYTES], data[SECRET_BYTES:]
        if len(data) != SECRET_BYTES + CHECKSUM_BYTES or not hmac.compare_digest(checksum, _checksum(raw)):
            raise OptionInvalid(
                f"the secret has a typing error or is cut off (expected {len(SECRET_PREFIX) + 48} characters, found "
                f"{len(stripped)}): copy it again from where `mynosql keygen` printed it"
            )
        return cls(raw)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> ClusterSecret:
        """The secret in a file that only its owner can read. Raises OptionInvalid."""
        try:
            mode = os.stat(path).st_mode
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise OptionInvalid(f"the file of the secret, {os.fspath(path)}, cannot be read: {error}") from error
        if os.name == "posix" and mode & 0o077:
            raise OptionInvalid(
                f"the file of the secret, {os.fspath(path)}, can be read by others (mode {mode & 0o777:o}): "
                f"chmod 600 {os.fspath(path)}"
            )
        return cls.parse(text)

    def proof(self, client_key: bytes) -> bytes:
        """What the holder of that CURVE public key (32 bytes) says to show that it knows the secret.

        Bound to both keys: CURVE makes the client prove that it owns its key, so another key cannot replay this.
        """
        said = b"mynosql opening 1" + client_key + z85.decode(self.server_public_key)
        return blake2b(said, key=self._proof_key, digest_size=32).digest()


def find_secret(given: str | os.PathLike[str] | None, environ: Mapping[str, str]) -> ClusterSecret | None:
    """The secret that was given, else that of $MYNOSQL_SECRET, else None; each is the secret or the path of its file.

    Raises OptionInvalid when one is given and cannot be used: never goes on without it.
    """
    found = given if given is not None else environ.get(SECRET_VARIABLE)
    if found is None:
        return None
    if not isinstance(found, str) or _is_path(found):
        return ClusterSecret.from_file(os.path.expanduser(found))
    return ClusterSecret.parse(found)


def _is_path(text: str) -> bool:
    # Not every text with a slash: a passphrase may have one, and errors show paths.
    return text.startswith((os.sep, "~", "." + os.sep, ".." + os.sep)) or os.path.isfile(text)


class NodeKeys:
    """The CURVE pair of one node's folder: other nodes know the node by its public half."""

    def __init__(self, public_key: bytes, secret_key: bytes) -> None:
        self.public_key = public_key
        self.secret_key = secret_key

    @property
    def user_id(self) -> str:
        """How the other side sees us in User-Id."""
        return z85.decode(self.public_key).hex()

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> NodeKeys:
        """The pair kept in this folder, made when there is none. Raises StorageCorrupt, StorageFailed."""
        path = Path(folder, KEYS_FILE)
        try:
            lines = path.read_text(encoding="ascii", errors="replace").splitlines()
        except FileNotFoundError:
            return cls._make(path)
        except OSError as error:
            raise StorageFailed(f"the node's key pair {path} cannot be read: {error}") from error
        if len(lines) == 3 and lines[0] == "mynosql keys 1" and len(lines[2]) == 40:
            keys = cls(lines[1].encode(), lines[2].encode())
            with contextlib.suppress(zmq.ZMQError, ValueError, KeyError):
                if zmq.curve_public(keys.secret_key) == keys.public_key:
                    return keys
        raise StorageCorrupt(
            str(path), None, "not the key pair of a node; delete the file and a new pair is made at the next opening"
        )

    @classmethod
    def _make(cls, path: Path) -> NodeKeys:
        public_key, secret_key = zmq.curve_keypair()
        text = f"mynosql keys 1\n{public_key.decode()}\n{secret_key.decode()}\n"
        try:
            write_private(path, text)
        except OSError as error:
            raise StorageFailed(f"the node's key pair {path} cannot be written: {error}") from error
        return cls(public_key, secret_key)


def write_private(path: Path, text: str) -> None:
    """The file holds this text, whole or not at all, readable by its owner alone. Raises OSError."""
    partial = path.with_name(path.name + ".new")
    with contextlib.suppress(FileNotFoundError):
        partial.unlink()
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(partial, path)


class ProvenKeys:
    """The CURVE keys that proved the secret, hex, newest last; kept in a file, since a SUB may come back first.

    A memory aid, nothing more: a node that is not in it proves the secret again. Never fsynced.
    """

    def __init__(self, path: Path, fingerprint: str, keys_max: int = PROVEN_KEYS_MAX) -> None:
        self._path = path
        self._head = f"mynosql proven 1 {fingerprint}"
        self._keys_max = keys_max
        self._keys: OrderedDict[str, None] = OrderedDict()
        self._lines = 0
        self._load()

    def _load(self) -> None:
        try:
            lines = self._path.read_text(encoding="ascii", errors="replace").splitlines()
        except OSError:
            lines = []
        # Another secret in the first line: those keys proved that one, not ours.
        if lines and lines[0] == self._head:
            self._lines = len(lines)
            for line in lines[1:]:
                if len(line) == 64 and all(digit in "0123456789abcdef" for digit in line):
                    self._remember(line)

    def __contains__(self, key: str) -> bool:
        return key in self._keys

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, key: str) -> None:
        """The key is admitted, now and after a restart."""
        is_new = key not in self._keys
        self._remember(key)
        if not is_new:
            return
        try:
            if 0 < self._lines < 2 * self._keys_max:
                with open(self._path, "a", encoding="ascii") as file:
                    file.write(key + "\n")
                self._lines += 1
            else:
                write_private(self._path, "\n".join((self._head, *self._keys)) + "\n")
                self._lines = 1 + len(self._keys)
        except OSError as error:
            log.warning("the keys that proved the secret are not remembered in %s: %s", self._path, error)

    def remove(self, key: str) -> None:
        """The key is not admitted any more, unless it proves the secret again."""
        if self._keys.pop(key, key) is None:
            self._lines = 0  # the next one rewrites the file without it

    def _remember(self, key: str) -> None:
        self._keys[key] = None
        self._keys.move_to_end(key)
        if len(self._keys) > self._keys_max:
            self._keys.popitem(last=False)


class Security:
    """What one open database holds for its sockets: a secret or none, its own pair, and who has proved the secret."""

    def __init__(
        self, *, secret: ClusterSecret | None, keys: NodeKeys | None, proven: ProvenKeys | None, insecure: bool
    ) -> None:
        self.secret = secret
        self.keys = keys
        self.proven = proven
        self.insecure = insecure
        self._banned: OrderedDict[str, None] = OrderedDict()

    @classmethod
    def open(cls, folder: str | os.PathLike[str], secret: ClusterSecret | None, *, insecure: bool = False) -> Security:
        """The security of the database in that folder. Raises StorageCorrupt, StorageFailed."""
        if secret is None:
            return cls(secret=None, keys=None, proven=None, insecure=insecure)
        proven = ProvenKeys(Path(folder, PROVEN_FILE), secret.fingerprint)
        return cls(secret=secret, keys=NodeKeys.open(folder), proven=proven, insecure=insecure)

    @property
    def is_open_to_others(self) -> bool:
        """Other hosts may be dialled and served."""
        return self.secret is not None or self.insecure

    @property
    def default_listen_host(self) -> str:
        """Where a mirror listens when no host was given."""
        return ANY_HOST if self.is_open_to_others else LOCAL_HOST

    def check_dial(self, address: Address) -> None:
        """Raises AddressInvalid when that node may not be dialled. Asks no DNS: it could be forged."""
        if not self.is_open_to_others and not address.is_loopback:
            raise AddressInvalid(f"{address.url} is not on this machine and no secret is set: {THREE_WAYS}")

    def check_listen(self, host: str) -> None:
        """Raises AddressInvalid when other nodes may not be let in there."""
        if not self.is_open_to_others and not Address(host, 0).is_loopback:
            raise AddressInvalid(f"listening on {host} lets other hosts in and no secret is set: {THREE_WAYS}")

    # The served side

    def opening_proof(self) -> bytes:
        """The proof that our own dials send; b"" without a secret."""
        if self.secret is None or self.keys is None:
            return b""
        return self.secret.proof(z85.decode(self.keys.public_key))

    def is_proof_good(self, user_id: str, proof: bytes) -> bool:
        """The owner of that key knows the secret; it is remembered. Always true without a secret."""
        if self.secret is None or self.proven is None:
            return True
        if user_id in self._banned or not hmac.compare_digest(proof, self.secret.proof(bytes.fromhex(user_id))):
            return False
        self.proven.add(user_id)
        return True

    def is_proven(self, user_id: str) -> bool:
        """That key has proved the secret before, maybe in an earlier run."""
        return self.proven is None or (user_id in self.proven and user_id not in self._banned)

    def is_banned(self, user_id: str) -> bool:
        """That key attacked us since the database was opened."""
        return user_id in self._banned

    def ban(self, user_id: str) -> None:
        """That key is refused until the database is opened again: it attacked us."""
        self._banned[user_id] = None
        if len(self._banned) > PROVEN_KEYS_MAX:
            self._banned.popitem(last=False)
        if self.proven is not None:
            self.proven.remove(user_id)
