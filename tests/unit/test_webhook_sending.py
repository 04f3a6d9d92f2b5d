"""Sending over TLS, and the receiver of the documentation."""

from __future__ import annotations

import datetime as dt
import ipaddress
import re
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from clickledger.stack.ports import free_ports
from reporting.webhooks import messages
from reporting.webhooks.addresses import Reach
from reporting.webhooks.messages import Message, header_fields
from reporting.webhooks.model import Confidential, Secret, make_secret
from reporting.webhooks.schedule import Outcome
from reporting.webhooks.sender import Sender
from shared.errors import OperatorError
from shared.settings import WebhookSettings
from tests.support.processes import accepts
from tests.support.webhooks import Endpoint

LOCAL = Reach(networks=(ipaddress.ip_network("127.0.0.0/8"),))
MESSAGE = Message("id", b"{}", "application/json", 1)
DOCUMENT = Path(__file__).parents[2] / "docs/webhooks.md"


def certificate(folder: Path) -> Path:
    """A key and a certificate for this machine, signed by itself, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "webhooks.test")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    path = folder / "server.pem"
    path.write_bytes(pem + made.public_bytes(serialization.Encoding.PEM))
    return path


async def test_certificates_must_be_valid(tmp_path: Path) -> None:
    """A certificate that nobody vouches for is refused before anything is sent; one of an authority of ours is not."""
    pem = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    endpoint = Endpoint(tls=context)
    try:
        async with Sender(WebhookSettings(), LOCAL) as sender:
            assert (await sender.send(endpoint.url, MESSAGE, {})).outcome is Outcome.TLS
        assert endpoint.received == []
        async with Sender(WebhookSettings(webhooks_ca_file=str(pem)), LOCAL) as sender:
            assert (await sender.send(endpoint.url, MESSAGE, {})).outcome is Outcome.DELIVERED
            elsewhere = endpoint.url.replace("127.0.0.1", "127.0.0.2")
            assert (await sender.send(elsewhere, MESSAGE, {})).outcome in (Outcome.TLS, Outcome.CONNECTION)
    finally:
        endpoint.close()


def test_a_file_that_holds_no_authorities() -> None:
    """It stops the start with the setting's name."""
    with pytest.raises(OperatorError, match="CLICKLEDGER_WEBHOOKS_CA_FILE"):
        Sender(WebhookSettings(webhooks_ca_file="/nothing/here.pem"), LOCAL)


async def test_a_slow_answer_is_a_time_out() -> None:
    """However slowly it drips: the whole attempt has one bound."""
    import time

    endpoint = Endpoint(lambda _: time.sleep(1) or (200, {}))
    try:
        async with Sender(WebhookSettings(webhooks_timeout_ms=100), LOCAL) as sender:
            assert (await sender.send(endpoint.url, MESSAGE, {})).outcome is Outcome.TIMEOUT
    finally:
        endpoint.close()


async def test_the_receiver_of_the_documentation(tmp_path: Path) -> None:
    """As it is printed: it verifies, takes an event once, takes batches, and refuses what is not signed."""
    (code,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    secret, (port,) = make_secret(b"d" * 32), free_ports(1)
    code = code.replace("whsec_…", secret).replace("8000", str(port))
    with started(code) as receiver:
        try:
            while not accepts(port):
                assert receiver.poll() is None
            url = f"http://127.0.0.1:{port}/"
            confidential = Confidential(url, {}, (Secret(secret),))
            one = messages.single(messages.make_test_event("acme", "e1", 0))
            two = messages.batch(
                "acme/wh_1", "s1", {}, [one.body, messages.single(messages.make_test_event("acme", "e2", 0)).body]
            )
            async with Sender(WebhookSettings(), LOCAL) as sender:
                for message in (one, one, two):
                    fields = header_fields(message, confidential, now_ms())
                    assert (await sender.send(url, message, fields)).outcome is Outcome.DELIVERED
                unsigned = {**header_fields(one, confidential, now_ms()), "webhook-signature": "v1,AAAA"}
                assert (await sender.send(url, one, unsigned)).status == 400
        finally:
            receiver.terminate()
        assert receiver.stdout is not None
        assert receiver.stdout.read().split() == ["com.clickledger.webhook.test", "None"] * 2


def started(code: str) -> subprocess.Popen[str]:
    """A process that runs this code."""
    command = [sys.executable, "-u", "-c", code]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def now_ms() -> int:
    """The library refuses signatures of another time."""
    return int(dt.datetime.now(dt.UTC).timestamp() * 1_000)
