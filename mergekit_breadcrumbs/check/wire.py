"""Requests to the hub that end soon, whatever the other side sends, and however slowly.

huggingface_hub's own calls read an answer to its end, however long it is, and wait
again after every byte.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from huggingface_hub import constants
from huggingface_hub.utils import build_hf_headers, get_session

from mergekit_breadcrumbs.check.codes import Code
from mergekit_breadcrumbs.host.attempt import first_line

LOG_IN = "log in with `hf auth login`"


class HubError(Exception):
    """Why a model of the hub could not be looked at: a code, and the end of a text."""

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(text)
        self.code = code


class Answer(NamedTuple):
    """What was read, and how many bytes the whole file has, if the hub says so."""

    content: bytes
    size: int | None


def deadline() -> float:
    """Return when to stop asking about one model, on the clock of `time.monotonic`.

    `HF_HUB_ETAG_TIMEOUT`, 10 seconds by default, is the longest wait for a single
    answer; all answers together have three times as long.
    """
    return time.monotonic() + 3 * constants.HF_HUB_ETAG_TIMEOUT


def read(url: str, limit: int, until: float, start: int | None = None) -> Answer:
    """Read what is at a URL, to its end; or at most `limit` bytes from `start` on.

    Raises:
        HubError: if the hub refuses, has no such thing, does not answer before `until`,
            or, where `start` is None, sends more than `limit` bytes.
    """
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    if start is not None:
        headers["Range"] = f"bytes={start}-{start + limit - 1}"
    # The errors are those of httpx, which goes by two names.
    try:
        with get_session().stream(
            "GET", url, headers=headers, timeout=_patience(until)
        ) as response:
            if response.status_code >= 300:
                raise _refusal(response.status_code, response.headers)
            skipped = (start or 0) if response.status_code == 200 else 0
            wanted = skipped + limit + (start is None)
            content = _at_most(response.iter_raw(), wanted, until)[skipped:]
            size = _whole_size(response)
    except HubError:
        raise
    except Exception as error:
        raise HubError(Code.MODEL_NOT_CHECKED, _trouble(error)) from error
    if start is None and len(content) > limit:
        text = "the hub sends more than it said, or than a small file has"
        raise HubError(Code.MODEL_NOT_CHECKED, text)
    return Answer(content, size)


def _patience(until: float) -> float:
    left = min(until - time.monotonic(), constants.HF_HUB_ETAG_TIMEOUT)
    if left <= 0:
        raise TimeoutError
    return left


def _at_most(chunks: Iterator[bytes], wanted: int, until: float) -> bytes:
    """Return the first bytes of an answer, and leave the rest unread."""
    content = bytearray()
    for chunk in chunks:
        content += chunk
        if len(content) >= wanted:
            break
        _patience(until)
    return bytes(content[:wanted])


def _whole_size(response: Any) -> int | None:
    """Return the size of the file that an answer, or a part of it, is of."""
    name = "Content-Length" if response.status_code == 200 else "Content-Range"
    found = re.fullmatch(
        r"(?:bytes \d+-\d+/)?(\d{1,15})", response.headers.get(name, "")
    )
    return int(found[1]) if found else None


def _refusal(status: int, headers: Any) -> HubError:
    """Return what a status means; only the headers tell some of them apart."""
    reason, message = (headers.get(f"X-Error-{n}", "") for n in ("Code", "Message"))
    if reason == "GatedRepo":
        text = "it is gated: accept its conditions on its page on the hub, and"
        return HubError(Code.NO_ACCESS, f"{text} {LOG_IN}")
    if reason == "RevisionNotFound":
        return HubError(Code.NO_REVISION, "no such revision")
    if status == 401 and "credentials" in message:
        return HubError(Code.NO_ACCESS, f"the hub refuses your token: {LOG_IN}")
    if status == 403:
        text = f"the hub refuses access: if it is private or gated, {LOG_IN}"
        return HubError(Code.NO_ACCESS, text)
    if status in (401, 404) and reason != "EntryNotFound":
        text = "the hub has no model of this name, or none that you may see: if it is"
        return HubError(Code.MODEL_NOT_FOUND, f"{text} private or gated, {LOG_IN}")
    return HubError(Code.MODEL_NOT_CHECKED, f"the hub answered with status {status}")


def _trouble(error: Exception) -> str:
    if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
        return "the hub did not answer in time"
    return f"the hub cannot be asked ({first_line(error)})"
