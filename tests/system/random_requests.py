"""Random requests to a dashboard: no answer may be an error of the server, and nothing may change.

``python -m tests.system.random_requests --requests 10000 --seed 1`` starts a dashboard with a token, a folder of
results and a queue.  It sends requests without a token, with wrong tokens and forged cookies, and with the right one to
all but the writes.  It prints one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import tempfile
from collections import Counter
from pathlib import Path

import httpx

from cdi_stream.operators.session import COOKIE, CSRF_HEADER
from tests.unit.test_archive import publish
from tests.unit.test_dashboard import JobsOfTest, served

TOKEN = "the token of this run"
METHODS = ("GET", "GET", "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE")
PATHS = (
    "/", "/login", "/logout", "/page.js", "/healthz", "/readyz", "/openapi.json", "/ws", "/api/v1/state",
    "/api/v1/session", "/api/v1/scans", "/api/v1/scans/{}", "/api/v1/scans/{}/mesh", "/api/v1/scans/{}/slice",
    "/api/v1/scans/{}/rocking", "/api/v1/scans/{}/thumbnail.png", "/api/v1/scans/{}/reconstruct", "/api/v1/queue",
    "/api/v1/queue/{}/cancel", "/api/v1/queue/{}/{}", "/api/v1/reconstruction",
    "/api/v1/readings", "/api/v1/trend", "/{}",
)  # fmt: skip
WORDS = (
    "run-a", "run-b", "1", "-1", "0", "999999999999999999999", "..", "%2e%2e%2f", "%00", "é", "' OR 1=1", "<script>",
    "null", "NaN", "1e400", "z", "strain", "reconstruction", "good", "a" * 300, "%ff", "true", "[]",
)  # fmt: skip
NAMES = (
    "verdict",
    "q",
    "limit",
    "offset",
    "axis",
    "quantity",
    "index",
    "stage",
    "curve",
    "token",
    "since",
    "hub",
    "name",
    "kind",
)


def path_of(rng: random.Random) -> str:
    """Return a random address with a random query."""
    path = rng.choice(PATHS)
    while "{}" in path:
        path = path.replace("{}", rng.choice(WORDS), 1)
    pairs = [f"{rng.choice(NAMES)}={rng.choice(WORDS)}" for _ in range(rng.choice((0, 0, 1, 2, 5)))]
    return path + ("?" + "&".join(pairs) if pairs else "")


def headers_of(rng: random.Random) -> dict[str, bytes]:
    """Return headers without the right token."""
    tokens: tuple[dict[str, bytes], ...] = (
        {},
        {"Authorization": b"Bearer wrong"},
        {"Authorization": b"Bearer \xff\xfe"},
        {"Authorization": b"Basic dGhl"},
        {"Cookie": f"{COOKIE}=9999999999.{'0' * 64}".encode()},
        {"Cookie": b"\xff=; ;=" + COOKIE.encode() + b"=."},
    )
    others: tuple[dict[str, bytes], ...] = (
        {},
        {"Origin": b"http://evil.example"},
        {CSRF_HEADER: b"\xe9"},
        {"Content-Type": b"application/json"},
    )
    return rng.choice(tokens) | rng.choice(others)


async def ask(client: httpx.AsyncClient, rng: random.Random) -> tuple[str, int]:
    """Send one random request; return its kind and the status."""
    method, path = rng.choice(METHODS), path_of(rng)
    body = rng.choice((b"", b"{}", b"[1", b"\xff" * 50, b'{"settings": {"phase.budget_s": 3}}', b"token=wrong"))
    is_right = rng.random() < 0.3 and method in ("GET", "HEAD", "OPTIONS")
    headers = {"Authorization": f"Bearer {TOKEN}".encode()} if is_right else headers_of(rng)
    if path.startswith("/login") and method == "POST":
        path = "/login"
    answer = await client.request(method, path, headers=headers, content=body)
    return "right token" if is_right else "no or wrong token", answer.status_code


async def send(host: str, n: int, seed: int) -> Counter[tuple[str, int]]:
    """Send random requests, some at a time; return how often each status came."""
    rng, found = random.Random(seed), Counter[tuple[str, int]]()
    async with httpx.AsyncClient(base_url=f"http://{host}", timeout=60) as client:
        for first in range(0, n, 20):
            found.update(await asyncio.gather(*(ask(client, rng) for _ in range(min(20, n - first)))))
    return found


async def measure(n: int, seed: int) -> dict[str, object]:
    """Serve a dashboard, send the requests, and return what came of them."""
    with tempfile.TemporaryDirectory() as name:
        folder, jobs = Path(name), JobsOfTest()
        for number, raw in enumerate(("run-a", "run-b")):
            publish(folder, raw, number, ["reconstruction"], 1000.0)
        before = sorted(path.name for path in folder.rglob("*"))
        async with served("tcp://127.0.0.1:9", token=TOKEN, results=folder, jobs=jobs) as host:
            found = await send(host, n, seed)
        after = sorted(path.name for path in folder.rglob("*"))
    return {
        "requests": n,
        "seed": seed,
        "server_errors": sum(times for (_, status), times in found.items() if status >= 500 and status != 503),
        "changes": len(jobs.changes),
        "files_changed": before != after,
        "answers": {f"{kind}: {status}": times for (kind, status), times in sorted(found.items())},
    }


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(prog="python -m tests.system.random_requests", description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        print(json.dumps(asyncio.run(measure(options.requests, options.seed)), indent=1))


if __name__ == "__main__":
    main()
