"""The cluster secret, the node's keys, the proof and who is remembered; then CURVE with real sockets."""

from __future__ import annotations

import contextlib
import socket
import stat
import threading
from pathlib import Path

import pytest
import zmq
from zmq.utils import z85

from mynosql.address import Address
from mynosql.errors import AddressInvalid, OptionInvalid, PeerRefused, StorageCorrupt, StorageFailed
from mynosql.net.security import (
    PROVEN_FILE,
    SECRET_PREFIX,
    ClusterSecret,
    NodeKeys,
    ProvenKeys,
    Security,
    find_secret,
    keygen,
)
from tests.net.recorder import Node, linked, make_secret, wait_equal, wait_published
from tests.waiting import wait_until

# The secret


def test_keygen_makes_secrets_of_200_random_bits_that_parse() -> None:
    made = {keygen() for _ in range(100)}
    assert len(made) == 100
    for text in made:
        assert text.startswith(SECRET_PREFIX)
        assert len(text) == 58
        assert text.isprintable()
        assert ClusterSecret.parse(f"  {text.upper()}\n").fingerprint == ClusterSecret.parse(text).fingerprint
    # every bit takes both values: none is a constant
    raws = [int.from_bytes(ClusterSecret.parse(text)._raw, "big") for text in made]
    assert len(ClusterSecret.parse(keygen())._raw) * 8 == 200
    for bit in range(200):
        assert {raw >> bit & 1 for raw in raws} == {0, 1}


@pytest.mark.parametrize("text", ["correct horse battery staple", "", "hunter2", "x" * 58, "mynosql-2-abcd"])
def test_a_passphrase_is_refused_and_never_shown(text: str) -> None:
    with pytest.raises(OptionInvalid, match="is no secret made by `mynosql keygen`") as got:
        ClusterSecret.parse(text)
    assert not text or text not in str(got.value)


def test_a_typing_error_in_a_secret_is_found() -> None:
    text = keygen()
    other = "a" if text[20] != "a" else "b"
    for wrong in (text[:-1], text + "a", text[:20] + other + text[21:], text[:30] + "!" + text[31:]):
        with pytest.raises(OptionInvalid, match="typing error or is cut off") as got:
            ClusterSecret.parse(wrong)
        assert wrong not in str(got.value)


def test_a_secret_is_not_shown_by_repr() -> None:
    text = keygen()
    shown = repr(ClusterSecret.parse(text))
    assert text[len(SECRET_PREFIX):] not in shown
    assert "fingerprint=" in shown


def test_server_keys_follow_from_the_secret_alone() -> None:
    text = keygen()
    one, other = ClusterSecret.parse(text), ClusterSecret.parse(text)
    assert one.server_public_key == other.server_public_key == zmq.curve_public(one.server_secret_key)
    assert one.server_public_key != make_secret().server_public_key
    assert one.fingerprint.encode() not in one.server_public_key


def test_a_secret_comes_from_a_private_file_only(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    text = keygen()
    path.write_text(text + "\n")
    for mode in (0o640, 0o604, 0o660):
        path.chmod(mode)
        with pytest.raises(OptionInvalid, match=f"chmod 600 {path}"):
            ClusterSecret.from_file(path)
    path.chmod(0o600)
    assert ClusterSecret.from_file(path).fingerprint == ClusterSecret.parse(text).fingerprint
    with pytest.raises(OptionInvalid, match="cannot be read"):
        ClusterSecret.from_file(tmp_path / "missing")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(OptionInvalid, match="cannot be read"):
        ClusterSecret.from_file(path)


def test_the_given_secret_goes_before_the_environment(tmp_path: Path) -> None:
    given, other = keygen(), keygen()
    path = tmp_path / "secret"
    path.write_text(other)
    path.chmod(0o600)

    def fingerprint(secret: ClusterSecret | None) -> str:
        assert secret is not None
        return secret.fingerprint

    assert find_secret(None, {}) is None
    assert fingerprint(find_secret(given, {"MYNOSQL_SECRET": other})) == fingerprint(ClusterSecret.parse(given))
    for environ in ({"MYNOSQL_SECRET": other}, {"MYNOSQL_SECRET": str(path)}):
        assert fingerprint(find_secret(None, environ)) == fingerprint(ClusterSecret.parse(other))
    assert fingerprint(find_secret(path, {})) == fingerprint(ClusterSecret.parse(other))
    # Never goes on without the one that was meant
    for wrong in ("", "password", "/no/such/file"):
        with pytest.raises(OptionInvalid):
            find_secret(None, {"MYNOSQL_SECRET": wrong})


# The node's own pair


def test_the_pair_of_a_folder_is_made_once_and_private(tmp_path: Path) -> None:
    first = NodeKeys.open(tmp_path)
    again = NodeKeys.open(tmp_path)
    assert (again.public_key, again.secret_key) == (first.public_key, first.secret_key)
    assert first.user_id == z85.decode(first.public_key).hex()
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["keys"]
    (tmp_path / "b").mkdir()
    assert NodeKeys.open(tmp_path / "b").public_key != first.public_key


@pytest.mark.parametrize("damage", ["", "mynosql keys 1\nx\ny\n", "swap"])
def test_a_damaged_pair_is_reported_with_the_repair(tmp_path: Path, damage: str) -> None:
    NodeKeys.open(tmp_path)
    path = tmp_path / "keys"
    head, public, secret = path.read_text().splitlines()
    path.write_text(f"{head}\n{secret}\n{public}\n" if damage == "swap" else damage)
    with pytest.raises(StorageCorrupt, match="delete the file and a new pair is made"):
        NodeKeys.open(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(StorageFailed, match="cannot be read"):
        NodeKeys.open(tmp_path)


def test_a_folder_that_takes_no_pair_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StorageFailed, match="cannot be written"):
        NodeKeys.open(tmp_path / "missing")


# The proof


def key(number: int) -> str:
    return f"{number:064x}"


def test_a_proof_is_good_for_one_key_and_one_secret_only(tmp_path: Path) -> None:
    secret, other = make_secret(), make_secret()
    server = Security.open(tmp_path, secret)
    proof = secret.proof(bytes.fromhex(key(1)))
    assert not server.is_proven(key(1))
    assert not server.is_proof_good(key(2), proof)  # replayed by another key
    assert not server.is_proof_good(key(1), other.proof(bytes.fromhex(key(1))))
    assert not server.is_proof_good(key(1), b"")
    assert not server.is_proof_good(key(1), proof[:-1])
    assert not server.is_proven(key(1))
    assert server.is_proof_good(key(1), proof)
    assert server.is_proven(key(1))
    assert not server.is_proven(key(2))


def test_without_a_secret_there_is_nothing_to_prove(tmp_path: Path) -> None:
    plain = Security.open(tmp_path, None)
    assert plain.opening_proof() == b""
    assert plain.is_proof_good("", b"")
    assert plain.is_proven("")
    assert list(tmp_path.iterdir()) == []


def test_a_banned_key_stays_out_whatever_it_proves(tmp_path: Path) -> None:
    secret = make_secret()
    server = Security.open(tmp_path, secret)
    proof = secret.proof(bytes.fromhex(key(1)))
    assert server.is_proof_good(key(1), proof)
    server.ban(key(1))
    assert server.is_banned(key(1))
    assert not server.is_proven(key(1))
    assert not server.is_proof_good(key(1), proof)


def test_proven_keys_are_remembered_on_disk_for_the_same_secret(tmp_path: Path) -> None:
    path = tmp_path / PROVEN_FILE
    proven = ProvenKeys(path, "one")
    for number in range(5):
        proven.add(key(number))
        proven.add(key(number))
    proven.remove(key(3))
    assert [number for number in range(6) if key(number) in ProvenKeys(path, "one")] == [0, 1, 2, 3, 4]
    proven.add(key(5))
    again = ProvenKeys(path, "one")
    assert [number for number in range(6) if key(number) in again] == [0, 1, 2, 4, 5]
    assert len(ProvenKeys(path, "another")) == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_proven_keys_are_bounded_in_memory_and_on_disk(tmp_path: Path) -> None:
    path = tmp_path / PROVEN_FILE
    proven = ProvenKeys(path, "one", keys_max=10)
    for number in range(100):
        proven.add(key(number))
        assert len(proven) == min(number + 1, 10)
        assert len(path.read_text().splitlines()) <= 21
    assert key(90) in proven
    assert key(89) not in proven
    assert sorted(ProvenKeys(path, "one", keys_max=10)._keys) == [key(number) for number in range(90, 100)]


@pytest.mark.parametrize(
    "content", [b"", b"rubbish\n", b"mynosql proven 1 one\nshort\n" + b"z" * 64 + b"\n", b"\xff" * 100]
)
def test_a_damaged_memory_of_proven_keys_is_forgotten(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / PROVEN_FILE
    path.write_bytes(content)
    proven = ProvenKeys(path, "one")
    assert len(proven) == 0
    proven.add(key(1))
    assert key(1) in ProvenKeys(path, "one")


def test_a_disk_that_takes_no_proven_key_is_no_reason_to_refuse(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    proven = ProvenKeys(tmp_path / "missing" / PROVEN_FILE, "one")
    proven.add(key(1))
    assert key(1) in proven
    assert "not remembered" in caplog.text


# Who may talk to whom


def test_without_a_secret_only_this_machine_is_dialled_and_served(tmp_path: Path) -> None:
    plain = Security.open(tmp_path, None)
    for host in ("127.0.0.1", "::1", "localhost", "127.9.9.9"):
        plain.check_dial(Address(host, 8800))
        plain.check_listen(host)
    for host in ("192.0.2.1", "example.org", "2001:db8::1", "localhost.example.org"):
        with pytest.raises(AddressInvalid, match=r"mynosql keygen.*loopback.*insecure=True"):
            plain.check_dial(Address(host, 8800))
        with pytest.raises(AddressInvalid, match=r"mynosql keygen.*loopback.*insecure=True"):
            plain.check_listen(host)
    with pytest.raises(AddressInvalid, match="lets other hosts in"):
        plain.check_listen("*")
    assert plain.default_listen_host == "127.0.0.1"


def test_a_secret_or_insecure_opens_to_other_hosts(tmp_path: Path) -> None:
    for opened in (Security.open(tmp_path, make_secret()), Security.open(tmp_path, None, insecure=True)):
        opened.check_dial(Address("example.org", 8800))
        opened.check_listen("*")
        assert opened.default_listen_host == "*"


# With real sockets


def test_members_of_one_secret_talk_and_are_known_by_their_keys(tmp_path: Path) -> None:
    secret = make_secret()
    with Node(tmp_path / "a", secret) as a, Node(tmp_path / "b", secret) as b, linked(a, b) as (dialled, served):
        b.send(dialled, b"hello")
        assert b.security.keys is not None
        wait_equal(lambda: a.seen.frames, [(served, [b"hello"], b.security.keys.user_id)])
        b.subscribe(a.io.listening)  # type: ignore[arg-type]
        wait_published(a, b, b"news")


@pytest.mark.parametrize("who", ["wrong secret", "none there", "none here"])
def test_who_has_not_the_same_secret_is_told_so_and_gets_nothing(tmp_path: Path, who: str) -> None:
    ours, theirs = make_secret(), make_secret()
    there_secret = None if who == "none there" else ours
    here_secret = None if who == "none here" else (theirs if who == "wrong secret" else ours)
    with Node(tmp_path / "a", there_secret) as a, Node(tmp_path / "b", here_secret) as b:
        there = a.listen()
        link = b.dial(there.address)
        b.subscribe(there)
        expected = {
            "wrong secret": "it has another secret than this node, or none, or is no MyNoSQL node; compare the secrets",
            "none there": "this node has a secret and that one has none; give both the same secret",
            "none here": "this node has no secret and that one has one; give both the same secret",
        }
        # Who notices first differs from attempt to attempt: often the other side, which only hangs up
        refusal = wait_until(lambda: next((each for each in b.seen.refusals if expected[who] in str(each)), None))
        assert isinstance(refusal, PeerRefused)
        assert str(refusal).startswith(str(there.address))
        assert all("secret" in str(each) for each in b.seen.refusals)
        wait_until(lambda: (link, str(refusal)) in b.seen.downs)
        b.send(link, b"let me in")
        a.publish(b"news")
        assert a.seen.ups == []
        assert a.seen.frames == []
        assert b.seen.ups == []


def test_attempts_go_on_after_a_refusal_since_the_other_side_may_be_repaired(tmp_path: Path) -> None:
    ours = make_secret()
    with Node(tmp_path / "b", ours) as b:
        with Node(tmp_path / "a", make_secret()) as wrong:
            there = wrong.listen()
            link = b.dial(there.address)
            wait_until(lambda: b.seen.refusals)
        with Node(tmp_path / "a", ours) as right:
            right.listen(there.address.port)
            b.wait_up(link)


class Stranger:
    """A client of its own making: it knows the server's public key, say from a member, but not the secret."""

    def __init__(self, kind: int, server_public_key: bytes, port: int) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self.context.socket(kind)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.public_key, secret_key = zmq.curve_keypair()
        self.socket.curve_serverkey = server_public_key
        self.socket.curve_publickey = self.public_key
        self.socket.curve_secretkey = secret_key
        if kind == zmq.SUB:
            self.socket.setsockopt(zmq.SUBSCRIBE, b"")
        self.socket.connect(f"tcp://127.0.0.1:{port}")

    def __enter__(self) -> zmq.Socket[bytes]:
        return self.socket

    def __exit__(self, *_: object) -> None:
        self.context.destroy(0)


def test_a_key_that_has_not_proved_the_secret_is_not_heard_and_not_answered(tmp_path: Path) -> None:
    secret = make_secret()
    with Node(tmp_path / "a", secret) as a:
        port = a.listen().address.port
        with Stranger(zmq.DEALER, secret.server_public_key, port) as stranger:
            stranger.send_multipart([b"hello", b"world"])
            stranger.send_multipart([b"", b"open", b"\x01", b"\0" * 32])
            stranger.send_multipart([b"", b"open", b"\x01", b""])
            stranger.send_multipart([b"", b"open"])
            stranger.send_multipart([b"hello again"])
            wait_equal(lambda: a.io.counters.dropped_unproven, 4)
            assert a.io.counters.dropped_malformed == 1
            assert stranger.poll(50) == 0
        assert a.seen.frames == []
        assert a.seen.ups == []


def test_a_proof_replayed_by_another_key_is_refused(tmp_path: Path) -> None:
    secret = make_secret()
    with Node(tmp_path / "a", secret) as a, Node(tmp_path / "b", secret) as b, linked(a, b):
        stolen = b.security.opening_proof()
        assert a.listen().address  # a fresh pair of ports
        assert a.io.listening is not None
        with Stranger(zmq.DEALER, secret.server_public_key, a.io.listening.address.port) as stranger:
            stranger.send_multipart([b"", b"open", b"\x01", stolen])
            stranger.send_multipart([b"hello"])
            wait_equal(lambda: a.io.counters.dropped_unproven, 2)
            assert stranger.poll(50) == 0


def test_the_user_id_of_every_message_counts_not_that_of_the_opening(tmp_path: Path) -> None:
    """libzmq would not let a client take an id that begins with a zero byte; an attacker's own code would."""
    secret = make_secret()
    with Node(tmp_path / "a", secret) as a, Node(tmp_path / "b", secret) as b, linked(a, b) as (_, served):
        listener = a.io._listener
        assert listener is not None
        routing_id = bytes.fromhex(served.name)
        a.io.call(lambda: listener._on_message(routing_id, [b"forged"], key(7)))
        assert a.seen.frames == []
        assert a.io.counters.dropped_unproven == 1
        assert b.security.keys is not None
        owner = b.security.keys.user_id
        a.io.call(lambda: listener._on_message(routing_id, [b"genuine"], owner))
        assert a.seen.frames == [(served, [b"genuine"], owner)]


def test_publications_go_to_proven_keys_only(tmp_path: Path) -> None:
    secret = make_secret()
    with Node(tmp_path / "a", secret) as a, Node(tmp_path / "b", secret) as b:
        there = a.listen()
        zap = a.io._zap
        assert zap is not None
        with Stranger(zmq.SUB, secret.server_public_key, there.publisher.port) as stranger:
            wait_until(lambda: zap.refused)
            # A member that has not said its proof yet is no better
            b.subscribe(there)
            wait_until(lambda: zap.refused >= 2)
            b.dial(there.address)
            wait_published(a, b, b"for members")
            assert stranger.poll(50) == 0


def test_a_member_is_admitted_to_publications_after_our_restart_without_a_new_proof(tmp_path: Path) -> None:
    secret = make_secret()
    with Node(tmp_path / "b", secret) as b:
        with Node(tmp_path / "a", secret) as a, linked(a, b) as (dialled, _):
            there = a.io.listening
            assert there is not None
            b.io.call(lambda: b.io.hang_up(dialled))
        with Node(tmp_path / "a", secret) as again:
            again.listen(there.address.port)
            b.subscribe(there)
            wait_published(again, b, b"x")
            assert again.seen.ups == []


class Tap:
    """Forwards one connection to a port of this machine and keeps what passed."""

    def __init__(self, port: int) -> None:
        self.passed: list[bytes] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._target = port
        self._ends: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        client, _ = self._server.accept()
        target = socket.create_connection(("127.0.0.1", self._target))
        self._ends = [client, target]
        for source, sink in ((client, target), (target, client)):
            self._threads.append(threading.Thread(target=self._pump, args=(source, sink)))
            self._threads[-1].start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self.passed.append(data)
                sink.sendall(data)

    def __enter__(self) -> Tap:
        return self

    def __exit__(self, *_: object) -> None:
        for end in self._ends:
            end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for end in (*self._ends, self._server):
            end.close()


@pytest.mark.parametrize("has_secret", [False, True])
def test_nothing_readable_crosses_the_wire_with_a_secret(tmp_path: Path, has_secret: bool) -> None:
    secret = make_secret() if has_secret else None
    words = b"the well known words"
    with Node(tmp_path / "a", secret) as a, Tap(a.listen().address.port) as tap, Node(tmp_path / "b", secret) as b:
        link = b.dial(Address("127.0.0.1", tap.port))
        b.wait_up(link)
        b.send(link, words)
        wait_until(lambda: a.seen.frames)
        assert (words in b"".join(tap.passed)) is not has_secret
        b.io.call(lambda: b.io.hang_up(link))
