"""Messages leave the house, over real connections; whatever goes wrong is told without a secret."""

import traceback
from pathlib import Path

import pytest

from lakehouse_assets.lifecycle import delivery
from lakehouse_assets.lifecycle.delivery import NotDeliveredError, channels, deliver
from lakehouse_assets.settings import Settings
from lakehouse_assets_tests.lifecycle.servers import SECRET, certificate, mailbox, webhook

MESSAGE = {
    "key": "toy:2020-03-30:findings",
    "subject": "[lakehouse] toy: 1 new finding",
    "text": "Drift in Ärger",
    "payload": {"text": "Drift in Ärger", "id": "toy:2020-03-30:findings"},
}


def hooked(address: str) -> Settings:
    return Settings(alert_webhook=address)


def mailed(port: int, **further: str) -> Settings:
    return Settings(
        alert_email_to="ops@example.org, grid@example.org",
        alert_email_from="lake@example.org",
        smtp_host="127.0.0.1",
        smtp_port=port,
        **{"smtp_security": "none", **further},
    )


def test_channels_are_those_that_are_set() -> None:
    assert channels(Settings()) == []
    assert channels(hooked("http://127.0.0.1:9/x")) == ["webhook"]
    assert channels(mailed(25)) == ["email"]
    with pytest.raises(NotDeliveredError, match="not set in this process"):
        deliver("webhook", Settings(), **MESSAGE)


def test_a_webhook_gets_the_payload_and_its_key() -> None:
    with webhook(202) as hook:
        assert deliver("webhook", hooked(hook.address), **MESSAGE) == "webhook: answered 202"
    (asked,) = hook.asked
    assert asked["body"] == MESSAGE["payload"]
    assert asked["headers"]["Idempotency-Key"] == MESSAGE["key"]
    assert asked["headers"]["Content-Type"] == "application/json"
    assert asked["path"] == f"/hooks/{SECRET}"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (500, "webhook: answered 500"),
        (404, "webhook: answered 404"),
        (302, "webhook: answered 302"),
        ("hang", "webhook: no "),
        ("drop", "webhook: no "),
    ],
)
def test_a_webhook_that_does_not_take_it_is_told_of_without_its_address(
    monkeypatch: pytest.MonkeyPatch, answer: int | str, said: str
) -> None:
    monkeypatch.setattr(delivery, "TIMEOUT", 0.2)
    with webhook(answer) as hook, pytest.raises(NotDeliveredError, match=said) as raised:
        deliver("webhook", hooked(hook.address), **MESSAGE)
    assert len(hook.asked) == 1
    assert SECRET not in "".join(traceback.format_exception(raised.value))


def test_nobody_there() -> None:
    with webhook() as hook:
        pass
    with pytest.raises(NotDeliveredError, match="no connection") as raised:
        deliver("webhook", hooked(hook.address), **MESSAGE)
    assert SECRET not in "".join(traceback.format_exception(raised.value))
    with pytest.raises(NotDeliveredError, match="email: ConnectionRefusedError"):
        deliver("email", mailed(hook.server.server_port), **MESSAGE)


def test_a_mail_arrives_at_all_addresses() -> None:
    with mailbox() as box:
        assert deliver("email", mailed(box.port), **MESSAGE) == "email: taken"
    ((to, message, text),) = box.taken
    assert to == ["ops@example.org", "grid@example.org"]
    assert message["Subject"] == MESSAGE["subject"]
    assert message["From"] == "lake@example.org"
    assert message["Message-ID"] == "<toy.2020-03-30.findings@example.org>"
    assert text.strip() == MESSAGE["text"]


def test_a_server_that_is_busy_is_told_of() -> None:
    with mailbox(refuse=1) as box:
        with pytest.raises(NotDeliveredError, match="email: SMTPDataError, answered 451"):
            deliver("email", mailed(box.port), **MESSAGE)
        assert deliver("email", mailed(box.port), **MESSAGE) == "email: taken"
    assert len(box.taken) == 1


def test_encryption_and_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = certificate(tmp_path)
    with mailbox(certificate=files) as box:
        login = {"smtp_security": "starttls", "smtp_user": "lake"}
        # nobody vouches for the certificate
        with pytest.raises(NotDeliveredError, match="email: SSLCertVerificationError"):
            deliver("email", mailed(box.port, smtp_password=SECRET, **login), **MESSAGE)
        monkeypatch.setenv("SSL_CERT_FILE", str(files[0]))
        assert deliver("email", mailed(box.port, smtp_password=SECRET, **login), **MESSAGE) == "email: taken"
        wrong = SECRET[::-1]
        with pytest.raises(NotDeliveredError, match="email: SMTPAuthenticationError, answered 535") as raised:
            deliver("email", mailed(box.port, smtp_password=wrong, **login), **MESSAGE)
        assert wrong not in "".join(traceback.format_exception(raised.value))
        with pytest.raises(NotDeliveredError, match="email: SMTPSenderRefused, answered 530"):
            deliver("email", mailed(box.port, smtp_security="starttls"), **MESSAGE)
    assert box.logins[0]
    assert not any(box.logins[1:])
    assert len(box.taken) == 1
