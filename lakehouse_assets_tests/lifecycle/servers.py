"""Real servers in threads: one that takes what is posted, or fails as it is told, and one that takes mail."""

import asyncio
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

SECRET = "t0p-s3cret"


class Webhook:
    """Answers each POST with the next of the answers, the last for ever; "hang" answers never, "drop" hangs up."""

    def __init__(self, *answers: int | str) -> None:
        self.answers, self.taken, self.asked = list(answers or (200,)), [], []
        self.ended = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(handler) -> None:
                body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
                self.asked.append({"path": handler.path, "headers": dict(handler.headers), "body": body})
                answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                if answer == "hang":
                    self.ended.wait(20)
                elif isinstance(answer, int):
                    handler.send_response(answer)
                    if answer == 302:
                        handler.send_header("Location", "/elsewhere")
                    handler.end_headers()
                    if answer < 300:
                        self.taken.append(body)

            def do_GET(handler) -> None:
                handler.send_response(200)
                handler.end_headers()

            def log_message(handler, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/hooks/{SECRET}"


@contextmanager
def webhook(*answers: int | str) -> Iterator[Webhook]:
    hook = Webhook(*answers)
    thread = threading.Thread(target=hook.server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hook
    finally:
        hook.ended.set()
        hook.server.shutdown()
        hook.server.server_close()
        thread.join()


class Mailbox:
    """Takes mail; refuses the first so many messages."""

    def __init__(self, refuse: int = 0) -> None:
        self.refuse, self.taken, self.senders = refuse, [], []
        self.logins: list[bool] = []
        self.port = 0

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        if self.refuse:
            self.refuse -= 1
            return "451 try again later"
        message: Message = message_from_bytes(envelope.content)
        self.taken.append((envelope.rcpt_tos, message, message.get_payload(decode=True).decode()))
        return "250 taken"


@contextmanager
def mailbox(refuse: int = 0, certificate: tuple[Path, Path] | None = None) -> Iterator[Mailbox]:
    """A mail server; with a certificate it wants STARTTLS and a login."""
    from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

    box = Mailbox(refuse)

    def authenticate(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        right = isinstance(data, LoginPassword) and (data.login, data.password) == (b"lake", SECRET.encode())
        box.logins.append(right)
        return AuthResult(success=right, handled=False)

    options: dict[str, Any] = {}
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        options = {
            "tls_context": context,
            "require_starttls": True,
            "authenticator": authenticate,
            "auth_required": True,
        }
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(
        loop.create_server(lambda: SMTP(box, hostname="localhost", loop=loop, **options), "127.0.0.1", 0)
    )
    box.port = server.sockets[0].getsockname()[1]
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield box
    finally:
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 that vouches for itself, and its key."""
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = folder / "certificate.pem", folder / "key.pem"
    files[0].write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    files[1].write_bytes(pem)
    return files
