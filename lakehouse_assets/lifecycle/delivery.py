"""How a message leaves the house: a POST to a webhook, or a mail. Each says in one line how it went.

What is secret (the webhook's address, the password) is in no message, log or error: errors are told by their kind.
"""

import json
import smtplib
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from email.message import EmailMessage
from http.client import HTTPException, HTTPMessage
from typing import IO, Any

from lakehouse_assets.settings import Settings

TIMEOUT = 15.0
"""Seconds that the other side may take for an answer."""


class NotDeliveredError(Exception):
    """The other side did not take the message; the text says how it failed, and holds no secret."""


def channels(settings: Settings) -> list[str]:
    """The channels that are set: webhook, email."""
    there = {"webhook": settings.alert_webhook is not None, "email": bool(settings.alert_mailboxes)}
    return [name for name, is_set in there.items() if is_set]


def deliver(channel: str, settings: Settings, *, key: str, subject: str, text: str, payload: Mapping[str, Any]) -> str:
    """Send a message by a channel; what the other side said.

    key: the same for all attempts to send one message. text: for a mail. payload: for a webhook.

    Raises:
        NotDeliveredError: it was not taken, or the channel is not set.
    """
    if channel not in channels(settings):
        raise NotDeliveredError(f"{channel}: not set in this process; set it where runs are executed, too")
    if channel == "webhook":
        return _post(settings, key, payload)
    return _mail(settings, key, subject, text)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A POST that is sent on arrives as a GET, without the message: no redirect is followed."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> None:
        return None


def _post(settings: Settings, key: str, payload: Mapping[str, Any]) -> str:
    assert settings.alert_webhook is not None
    headers = {"Content-Type": "application/json", "Idempotency-Key": key, "User-Agent": "lakehouse_assets"}
    address, body = settings.alert_webhook.get_secret_value(), json.dumps(payload).encode()
    request = urllib.request.Request(address, data=body, headers=headers, method="POST")
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=TIMEOUT) as answer:
            return f"webhook: answered {answer.status}"
    except urllib.error.HTTPError as error:
        raise NotDeliveredError(f"webhook: answered {error.code}") from None
    # Their texts may hold the address.
    except urllib.error.URLError as error:
        raise NotDeliveredError(f"webhook: no connection ({type(error.reason).__name__})") from None
    except (OSError, HTTPException, ValueError) as error:
        raise NotDeliveredError(f"webhook: no answer ({type(error).__name__})") from None


def _mail(settings: Settings, key: str, subject: str, text: str) -> str:
    sender = settings.alert_email_from or settings.alert_mailboxes[0]
    message = EmailMessage()
    message["Subject"] = subject
    message["From"] = sender
    message["To"] = ", ".join(settings.alert_mailboxes)
    # Mail programs show a message that comes twice once.
    message["Message-ID"] = f"<{key.replace(':', '.')}@{sender.rpartition('@')[2]}>"
    message.set_content(text)
    try:
        with _server(settings) as server:
            if settings.smtp_security == "starttls":
                server.starttls(context=ssl.create_default_context())
            if settings.smtp_user is not None and settings.smtp_password is not None:
                server.login(settings.smtp_user, settings.smtp_password.get_secret_value())
            refused = server.send_message(message)
    except smtplib.SMTPResponseException as error:
        raise NotDeliveredError(f"email: {type(error).__name__}, answered {error.smtp_code}") from None
    except (OSError, smtplib.SMTPException) as error:
        raise NotDeliveredError(f"email: {type(error).__name__}") from None
    if refused:
        return f"email: taken, but refused for {len(refused)} of {len(settings.alert_mailboxes)} addresses"
    return "email: taken"


def _server(settings: Settings) -> smtplib.SMTP:
    if settings.smtp_security == "tls":
        context = ssl.create_default_context()
        return smtplib.SMTP_SSL(settings.smtp_host, settings.smtp_port, timeout=TIMEOUT, context=context)
    return smtplib.SMTP(settings.smtp_host, settings.smtp_port, timeout=TIMEOUT)
