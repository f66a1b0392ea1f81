"""openai:NAME: the model of that name behind any server that speaks OpenAI's chat completions.

A question that fails in passing (HTTP 408, 409, 429, 5xx, no reply in time, no connection, a reply that is no chat
completion) is asked again with exponential backoff and jitter, or when the server says so (Retry-After). One that is
still not answered then, or that the server refuses, counts as unanswered, and the evaluation goes on. After HOPELESS
failures in a row no more questions are asked: they are unanswered too, and the next run, which finds all other answers
on disk, asks them alone.
"""

from __future__ import annotations

import contextlib
import email.utils
import hashlib
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import tenacity
from tqdm import tqdm

from seqgpt_jax.asking import Answered, RecordQuestion, read_answer, without_answer
from seqgpt_jax.errors import UserError
from seqgpt_jax.prompt import SEQGPT_V1
from seqgpt_jax.systems.answer_store import AnswerStore, Reply
from seqgpt_jax.systems.chat_prompt import chat_messages, read_reply
from seqgpt_jax.systems.system import AskingSystem

HOPELESS = 20  # failures in a row
_PATIENCE = 600.0  # seconds; a server that wants us to wait for longer has not answered
_LONGEST_BACKOFF = 60.0  # seconds
_LONGEST_REPLY = 1 << 24  # bytes
_EXCERPT = 200  # characters of what a server said
_NUM_REASONS = 20  # reasons for no answer that a description names


@dataclass(frozen=True)
class ServerOptions:
    """How a server is asked. The key is the environment's OPENAI_API_KEY.

    settings: further fields of each request; null leaves a field out. prices: for a million prompt tokens, and for a
    million completion tokens. cache: the file of answers; None: chat_answers.sqlite in the cache folder.
    """

    base_url: str = "https://api.openai.com/v1"
    settings: Mapping[str, Any] = field(default_factory=lambda: {"temperature": 0, "max_tokens": 512})
    requests_per_minute: float | None = None  # None: as fast as it goes
    concurrency: int = 8  # requests at once
    timeout: float = 60.0  # seconds in which a reply has to be complete
    attempts: int = 6  # requests for a question, the first included
    prices: tuple[float, float] | None = None
    cache: Path | None = None


class RateLimit:
    """Lets requests through at even distances, so many a minute."""

    def __init__(
        self, per_minute: float, sleep: Callable[[float], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._distance, self._clock, self._sleep = 60 / per_minute, clock, sleep
        self._lock, self._next = threading.Lock(), clock()

    def wait(self) -> None:
        """Returns when the next request may be sent."""
        with self._lock:
            now = self._clock()
            place = max(self._next, now)
            self._next = place + self._distance
        if place > now:
            self._sleep(place - now)


class _FailedError(Exception):
    """A question that got no answer, and why.

    status: of HTTP, None where there was no reply. connected: whether anybody was there.
    """

    def __init__(self, reason: str, status: int | None = None, connected: bool = True) -> None:
        super().__init__(reason)
        self.status, self.connected = status, connected


class _PassingError(_FailedError):
    """One that may go well the next time, after `wait` seconds where the server said so."""

    wait: float | None = None


class ChatServer(AskingSystem):
    """UserError for a base_url that is none, and from the first question where the server is not there, or refuses the
    key or the model."""

    def __init__(self, name: str, options: ServerOptions, sleep: Callable[[float], None] | None = None) -> None:
        """sleep: what waits between requests; None: the clock does."""
        self.name, self.options = name, options
        self._stopped = threading.Event()  # by an error, or by the user: nobody waits any longer
        self._sleep = tenacity.sleep_using_event(self._stopped) if sleep is None else sleep
        self._url = _checked_url(options.base_url)
        key = os.environ.get("OPENAI_API_KEY", "").strip()
        if not key and options.base_url == ServerOptions.base_url:
            raise UserError(f"openai:{name} needs a key (set OPENAI_API_KEY, or give the --base_url of another server)")
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
        limits = httpx2.Limits(max_connections=options.concurrency)
        self._client = httpx2.Client(headers=headers, timeout=options.timeout, limits=limits)
        rate = options.requests_per_minute
        self._rate_limit = None if rate is None else RateLimit(rate, self._sleep)
        self._store = AnswerStore(options.cache or _default_cache())
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._failures_in_a_row = 0
        self._was_there = False

    def answer(self, questions: Sequence[RecordQuestion], bar: tqdm) -> list[Answered]:
        self._failures_in_a_row = 0
        bodies = [self._body(question) for question in questions]
        keys = [self._key(body) for body in bodies]
        found: dict[str, Reply | _FailedError] = {}
        missing: dict[str, dict[str, Any]] = {}
        for key, body in zip(keys, bodies, strict=True):
            if key not in found and key not in missing:
                reply = self._store.get(key)
                if reply is None:
                    missing[key] = body
                else:
                    found[key] = reply
                    self._add(reply, cached=True)
        bar.update(len(questions) - len(missing))
        if missing and not self._was_there:
            key, body = next(iter(missing.items()))
            found[key] = self._ask_first(key, body)
            del missing[key]
            bar.update()
        found |= self._ask_all(missing, bar)
        return [self._read(question, found[key]) for question, key in zip(questions, keys, strict=True)]

    def description(self) -> dict[str, Any]:
        """tokens, cost: of all answers. cost_paid: without those from disk. unanswered: reason -> questions."""
        counts = self._counts
        cost = {}
        if self.options.prices is not None:
            cost["cost"] = _cost(self.options.prices, counts["prompt"], counts["completion"])
            cost["cost_paid"] = _cost(self.options.prices, counts["paid prompt"], counts["paid completion"])
        return {
            "name": self.name,
            "kind": "openai",
            "settings": {"base_url": self.options.base_url, "format": SEQGPT_V1.name, **self.options.settings},
            "requests": counts["requests"],
            "retries": counts["retries"],
            "answers_from_disk": counts["cached"],
            "unanswered": dict(self._reasons.most_common(_NUM_REASONS)),
            "tokens": {"prompt": counts["prompt"], "completion": counts["completion"]},
            **cost,
        }

    # --- one question ---

    def _body(self, question: RecordQuestion) -> dict[str, Any]:
        settings = {name: value for name, value in self.options.settings.items() if value is not None}
        return {"model": self.name, "messages": chat_messages(SEQGPT_V1, question), **settings}

    def _key(self, body: Mapping[str, Any]) -> str:
        """What makes two requests the same."""
        return hashlib.sha256(json.dumps([str(self._url), body], sort_keys=True).encode()).hexdigest()

    def _read(self, question: RecordQuestion, found: Reply | _FailedError) -> Answered:
        if isinstance(found, Reply):
            return read_answer(SEQGPT_V1, question.example, read_reply(found.text, found.complete))
        with self._lock:
            self._reasons[str(found)] += 1
        return without_answer(question.example, str(found))

    def _ask_first(self, key: str, body: Mapping[str, Any]) -> Reply | _FailedError:
        """Alone: where nobody is there, or nothing can be had, that is said before thousands of requests."""
        found = self._ask(key, body)
        if isinstance(found, _FailedError):
            if not found.connected:
                raise UserError(f"{self.options.base_url}: {found} (start the server, or mend --base_url)")
            if found.status in (401, 403):
                raise UserError(f"{self.options.base_url}: {found} (set OPENAI_API_KEY to a key of this server)")
            if found.status == 404:
                raise UserError(f"{self.options.base_url}: {found} (mend openai:NAME, or --base_url)")
        self._was_there = True
        return found

    def _ask_all(self, missing: Mapping[str, Mapping[str, Any]], bar: tqdm) -> dict[str, Reply | _FailedError]:
        executor = ThreadPoolExecutor(self.options.concurrency)
        found: dict[str, Reply | _FailedError] = {}
        try:
            asked = {executor.submit(self._ask, key, body): key for key, body in missing.items()}
            for future in as_completed(asked):
                found[asked[future]] = future.result()
                bar.update()
        except BaseException:
            self._stopped.set()
            raise
        finally:
            executor.shutdown(cancel_futures=True)
        return found

    def _ask(self, key: str, body: Mapping[str, Any]) -> Reply | _FailedError:
        """Asks until there is an answer, which is put on disk, or no hope of any."""
        if self._failures_in_a_row >= HOPELESS:
            return _FailedError(f"not asked, as the server failed {HOPELESS} times in a row")
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_PassingError),
            stop=tenacity.stop_any(
                tenacity.stop_after_attempt(self.options.attempts), tenacity.stop_when_event_set(self._stopped)
            ),
            wait=_wait,
            sleep=self._sleep,
            before_sleep=lambda state: self._count("retries"),
            reraise=True,
        )
        try:
            reply: Reply = retrying(self._request, body)
        except _FailedError as failure:
            with self._lock:  # a server that refuses a question is well
                self._failures_in_a_row = self._failures_in_a_row + 1 if isinstance(failure, _PassingError) else 0
            return failure
        self._store.put(key, reply)
        self._add(reply, cached=False)
        with self._lock:
            self._failures_in_a_row = 0
        return reply

    def _request(self, body: Mapping[str, Any]) -> Reply:
        if self._rate_limit is not None:
            self._rate_limit.wait()
        self._count("requests")
        deadline = time.monotonic() + self.options.timeout
        content = bytearray()
        try:
            with self._client.stream("POST", self._url, content=json.dumps(body).encode()) as response:
                for piece in response.iter_bytes():
                    content += piece
                    if len(content) > _LONGEST_REPLY:
                        raise _PassingError(f"a reply of more than {_LONGEST_REPLY} bytes")
                    if time.monotonic() > deadline:  # the client's own limit is for each piece
                        raise httpx2.ReadTimeout("the reply trickles")
        except httpx2.RequestError as error:
            connected = not isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout)
            timed_out = isinstance(error, httpx2.TimeoutException)
            reason = f"no reply in {self.options.timeout:g} s" if timed_out else _shown(error)
            kind = _PassingError if connected or self._was_there else _FailedError
            raise kind(reason, connected=connected) from error
        return _read_response(response, bytes(content))

    # --- counts ---

    def _count(self, name: str, number: int = 1) -> None:
        with self._lock:
            self._counts[name] += number

    def _add(self, reply: Reply, cached: bool) -> None:
        tokens = {"prompt": reply.prompt_tokens, "completion": reply.completion_tokens}
        with self._lock:
            self._counts.update(tokens)
            self._counts.update({"cached": 1} if cached else {f"paid {name}": n for name, n in tokens.items()})


def _checked_url(base_url: str) -> httpx2.URL:
    try:
        url = httpx2.URL(base_url.rstrip("/") + "/chat/completions")
    except httpx2.InvalidURL as error:
        raise UserError(
            f"--base_url {base_url!r} is not an address: {error} (such as http://localhost:8000/v1)"
        ) from None
    if url.scheme not in ("http", "https") or not url.host or url.userinfo:
        raise UserError(f"--base_url {base_url!r} is not http:// or https:// with a host (http://localhost:8000/v1)")
    return url


def _default_cache() -> Path:
    from seqgpt_jax.recipe import DataSettings

    return DataSettings().cache_path() / "chat_answers.sqlite"


def _cost(prices: tuple[float, float], prompt_tokens: int, completion_tokens: int) -> float:
    """In the currency of the prices."""
    return (prices[0] * prompt_tokens + prices[1] * completion_tokens) / 1e6


def _wait(state: tenacity.RetryCallState) -> float:
    """Seconds until the next request for the same question: what the server said, else 1 to 2, 2 to 3, 4 to 5 ..."""
    assert state.outcome is not None
    failure = state.outcome.exception()
    if isinstance(failure, _PassingError) and failure.wait is not None:
        return failure.wait
    return tenacity.wait_exponential_jitter(max=_LONGEST_BACKOFF)(state)


# --- what a server says ----------------------------------------------------------------------------------------------


def _read_response(response: httpx2.Response, content: bytes) -> Reply:
    status = response.status_code
    if status in (408, 409, 429) or status >= 500:
        failure = _PassingError(f"HTTP {status}{_excerpt(content)}", status)
        failure.wait = _retry_after(response.headers.get("Retry-After"))
        if failure.wait is not None and failure.wait > _PATIENCE:
            raise _FailedError(f"{failure}, to be asked again after {failure.wait:.0f} s only", status)
        raise failure
    if status != 200:
        raise _FailedError(f"HTTP {status}{_excerpt(content)}", status)
    try:
        fields = json.loads(content)
        choice = fields["choices"][0]
        text = choice["message"]["content"]
    except (ValueError, RecursionError, KeyError, IndexError, TypeError) as error:
        raise _PassingError(f"the reply is no chat completion{_excerpt(content)}") from error
    if not isinstance(text, str):
        raise _PassingError(f"the reply has no text{_excerpt(content)}")
    usage = fields.get("usage")
    return Reply(
        _writable(text), choice.get("finish_reason") != "length", _tokens(usage, "prompt"), _tokens(usage, "completion")
    )


def _tokens(usage: object, name: str) -> int:
    number = usage.get(f"{name}_tokens") if isinstance(usage, Mapping) else None
    return number if isinstance(number, int) and number >= 0 else 0


def _retry_after(header: str | None) -> float | None:
    """Seconds, which the header gives as such or as a date; None where it gives neither."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(header).timestamp() - time.time()
        except ValueError:
            return None
    return max(seconds, 0.0) if seconds == seconds else None


def _excerpt(content: bytes) -> str:
    """A colon and how the content begins, on one line, or its error message; "" where there is none."""
    text = content.decode("utf-8", "replace")
    with contextlib.suppress(ValueError, RecursionError, KeyError, TypeError):
        text = json.loads(text)["error"]["message"]
    text = _writable(" ".join(str(text).split()))
    return f": {text[:_EXCERPT]}" if text else ""


def _writable(text: str) -> str:
    """Without halves of surrogate pairs, which JSON may hold and no file can."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _shown(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
