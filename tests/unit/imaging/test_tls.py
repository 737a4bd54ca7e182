"""Downloads over TLS, from a real server on loopback whose authority is the tests' own."""

from __future__ import annotations

import base64
import datetime
import hashlib
import ipaddress
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.connect_proxy import proxying
from tests.http_server import Server, serving
from vmctl.errors import ImageError
from vmctl.imaging.checksums import Checksum
from vmctl.imaging.download import Source, fetch
from vmctl.imaging.http import Limits

BODY = b"semper eadem\n" * 4096
SHA256 = Checksum("sha256", hashlib.sha256(BODY).hexdigest())
_DAY = datetime.timedelta(days=1)


class Authority:
    """Signs certificates for servers, and is trusted by nobody at first."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests' own")])
        constraints = x509.BasicConstraints(ca=True, path_length=0)
        builder = self._builder(self._name, self._key, 1).add_extension(constraints, critical=True)
        self.file = folder / "authority.pem"
        made = builder.sign(self._key, hashes.SHA256())
        self.file.write_bytes(made.public_bytes(serialization.Encoding.PEM))

    def _builder(
        self, name: x509.Name, key: ec.EllipticCurvePrivateKey, days: int
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 2 * _DAY)
            .not_valid_after(now + days * _DAY)
        )

    def server(self, *, names: tuple[str, ...] = ("localhost",), days: int = 1) -> ssl.SSLContext:
        """Return the context of a server with a certificate for 127.0.0.1, or for other names."""
        key = ec.generate_private_key(ec.SECP256R1())
        known: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
        if "localhost" in names:
            known.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
        builder = self._builder(x509.Name([]), key, days)
        builder = builder.add_extension(x509.SubjectAlternativeName(known), critical=True)
        made = builder.sign(self._key, hashes.SHA256())
        file = self._folder / f"{made.serial_number}.pem"
        file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            + made.public_bytes(serialization.Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context


Serve = Callable[..., Server]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def secure(
    authority: Authority, server: Server, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Serve]:
    """Return a maker of servers; `server` has seen to it that no proxy is asked."""
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    with ExitStack() as running:

        def make(**how: object) -> Server:
            made = running.enter_context(serving(authority.server(**how)))  # type: ignore[arg-type]
            made.page("/disk", BODY)
            return made

        yield make


@pytest.fixture
def trusted(authority: Authority, secure: Serve, monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Let this machine trust the authority."""
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    return secure


def refused(url: str, cache: Path, limits: Limits) -> ImageError:
    with pytest.raises(ImageError, match="the certificate of .* is refused") as caught:
        fetch(Source(url=url, checksum=SHA256), cache=cache, limits=limits)
    assert caught.value.hint
    assert "\n" not in caught.value.brief
    assert [path for path in cache.rglob("*") if path.is_file()] == []
    return caught.value


def test_an_authority_that_is_not_trusted(secure: Serve, cache: Path, limits: Limits) -> None:
    server = secure()
    error = refused(server.url("/disk"), cache, limits)
    assert "nobody whom this machine trusts" in error.brief
    assert "SSL_CERT_FILE" in error.hint
    assert server.requests == []


def test_one_that_the_environment_names(trusted: Serve, cache: Path, limits: Limits) -> None:
    server = trusted()
    for host in ("127.0.0.1", "localhost"):
        source = Source(url=server.url("/disk", host), checksum=SHA256)
        assert fetch(source, cache=cache, limits=limits).path.read_bytes() == BODY
    assert len(server.asked("/disk")) == 1


def test_a_certificate_of_another_server(trusted: Serve, cache: Path, limits: Limits) -> None:
    server = trusted(names=("images.example.org",))
    for host in ("127.0.0.1", "localhost"):
        error = refused(server.url("/disk", host), cache, limits)
        assert "of another name" in error.brief
        assert "SSL_CERT_FILE" not in error.hint
    assert server.requests == []


def test_a_certificate_that_has_expired(trusted: Serve, cache: Path, limits: Limits) -> None:
    server = trusted(days=-1)
    error = refused(server.url("/disk"), cache, limits)
    assert "has expired" in error.brief
    assert "clock" in error.hint


def test_a_list_of_checksums_comes_over_tls_too(
    trusted: Serve, cache: Path, limits: Limits
) -> None:
    good, bad = trusted(), trusted(names=("images.example.org",))
    for server in (good, bad):
        server.page("/SHA256SUMS", f"{SHA256.value}  disk\n".encode())
    source = Source(url=good.url("/disk"), checksum_url=good.url("/SHA256SUMS"))
    assert fetch(source, cache=cache, limits=limits).verified
    with pytest.raises(ImageError, match="of another name"):
        fetch(
            Source(url=good.url("/disk"), checksum_url=bad.url("/SHA256SUMS")),
            cache=cache,
            limits=limits,
        )


def test_a_redirect_stays_within_tls(
    trusted: Serve, server: Server, cache: Path, limits: Limits
) -> None:
    first, second = trusted(), trusted()
    server.page("/disk", BODY)
    first.page("/on", location=second.url("/disk"))
    first.page("/out", location=server.url("/disk"))
    server.page("/in", location=second.url("/disk"))
    with pytest.raises(ImageError, match="redirected to where vmctl does not follow") as caught:
        fetch(Source(url=first.url("/out"), checksum=SHA256), cache=cache, limits=limits)
    assert "from https to http" in caught.value.details
    assert server.asked("/disk") == []
    for url in (first.url("/on"), server.url("/in")):
        found = fetch(Source(url=url, unverified=True), cache=cache, limits=limits)
        assert found.path.read_bytes() == BODY


def test_a_redirect_to_a_server_that_is_not_trusted(
    secure: Serve, server: Server, cache: Path, limits: Limits
) -> None:
    other = secure()
    server.page("/in", location=other.url("/disk"))
    error = refused(server.url("/in"), cache, limits)
    assert str(other.server_port) in error.brief


def test_through_a_proxy_it_is_the_server_that_is_verified(
    trusted: Serve, cache: Path, limits: Limits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proxy sees names and no more: neither the path nor what comes back."""
    server = trusted(names=("images.invalid",))
    url = "https://images.invalid/disk"
    server.page("/SHA256SUMS", f"{SHA256.value}  disk\n".encode())
    source = Source(url=url, checksum_url="https://images.invalid/SHA256SUMS")
    user = base64.b64encode(b"joe:secret").decode()
    with proxying(server.server_port, user) as proxy:
        there = f"127.0.0.1:{proxy.server_port}"
        monkeypatch.setenv("HTTPS_PROXY", f"http://{there}")
        with pytest.raises(ImageError, match="can't reach images.invalid: the proxy") as caught:
            fetch(source, cache=cache, limits=limits)
        assert (proxy.refused > 0, proxy.tunnels, server.requests) == (True, [], [])
        monkeypatch.setenv("HTTPS_PROXY", f"http://joe:secret@{there}")
        assert fetch(source, cache=cache, limits=limits).path.read_bytes() == BODY
        assert set(proxy.tunnels) == {"images.invalid:443"}
        # TLS from the first byte on: a handshake, version 3.
        assert {piece[:2] for piece in proxy.spoken} == {b"\x16\x03"}
        assert not any("proxy-authorization" in asked for asked in server.asked("/disk"))
        other = Source(url="https://other.invalid/disk", unverified=True)
        with pytest.raises(ImageError, match="of another name"):
            fetch(other, cache=cache, limits=limits)
    assert "secret" not in str(caught.value)
    with pytest.raises(ImageError, match="can't reach other.invalid"):
        fetch(other, cache=cache, limits=limits)


@pytest.mark.parametrize("listed", ["127.0.0.1", "localhost,127.0.0.1", "*"])
def test_hosts_that_no_proxy_is_asked_for(
    trusted: Serve, cache: Path, limits: Limits, monkeypatch: pytest.MonkeyPatch, listed: str
) -> None:
    server = trusted()
    with proxying(server.server_port) as proxy:
        for name in ("HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.server_port}")
        source = Source(url=server.url("/disk"), unverified=True)
        fetch(source, cache=cache, limits=limits)
        assert proxy.tunnels == [f"127.0.0.1:{server.server_port}"]
        monkeypatch.setenv("NO_PROXY", listed)
        fetch(source, cache=cache, limits=limits)
        assert len(proxy.tunnels) == 1
        assert len(server.asked("/disk")) == 2


def test_a_domain_that_no_proxy_is_asked_for(
    trusted: Serve, cache: Path, limits: Limits, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = trusted(names=("images.invalid", "notsite.invalid"))
    with proxying(server.server_port) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.server_port}")
        monkeypatch.setenv("NO_PROXY", ".site.invalid")
        fetch(
            Source(url="https://notsite.invalid/disk", unverified=True), cache=cache, limits=limits
        )
        assert proxy.tunnels == ["notsite.invalid:443"]
        # There is no such name, and only the proxy would not mind.
        with pytest.raises(ImageError, match="can't reach a.site.invalid"):
            fetch(
                Source(url="https://a.site.invalid/disk", unverified=True),
                cache=cache,
                limits=limits,
            )
        assert len(proxy.tunnels) == 1
