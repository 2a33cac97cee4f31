"""A closed loop of keep-alive HTTP connections: each sends a request, waits for the answer, and sends the next."""

from __future__ import annotations

import http.client
import statistics
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

from tritonkit.errors import UnreachableError


@dataclass(frozen=True)
class Endpoint:
    """Where a request goes, and what is in it."""

    address: str
    """HOST:PORT."""
    path: str
    headers: Mapping[str, str]
    body: bytes

    def connect(self) -> http.client.HTTPConnection:
        """Return a connection, which opens with its first request."""
        return http.client.HTTPConnection(self.address, timeout=30)

    def ask(self) -> tuple[int, bytes]:
        """Send the request over a connection of its own; return status and answer. Raises UnreachableError."""
        with closing(self.connect()) as connection:
            return self.post(connection)

    def post(self, connection: http.client.HTTPConnection) -> tuple[int, bytes]:
        """Send the request; return status and answer. Raises UnreachableError."""
        try:
            connection.request("POST", self.path, self.body, self.headers)
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            raise UnreachableError(f"{self.address}: {error!r}") from error


@dataclass(frozen=True)
class Slice:
    """What was measured within some seconds."""

    requests_per_s: float
    p50_ms: float
    answered: int
    """Also before the seconds that count."""
    failed: int = 0
    """Answers with another status than 200, which count in nothing else."""
    client_cores: float = 0.0
    """CPU seconds a second of the process that sends."""
    server_cpu_ms: float = 0.0
    """CPU time of the server, by request."""


def measure_slice(endpoint: Endpoint, connections: int, settle_s: float, seconds: float) -> Slice:
    """Send from `connections` connections; count the requests answered in the `seconds` after `settle_s`.

    Raises UnreachableError.
    """
    cpu_s, begin = time.process_time(), time.perf_counter()
    start, end = begin + settle_s, begin + settle_s + seconds

    def send() -> list[tuple[int, float, float]]:
        answers = []
        with closing(endpoint.connect()) as connection:
            while (sent := time.perf_counter()) < end:
                status, _ = endpoint.post(connection)
                answers.append((status, sent, time.perf_counter()))
        return answers

    with ThreadPoolExecutor(connections) as pool:
        senders = [pool.submit(send) for _ in range(connections)]
        answers = [answer for sender in senders for answer in sender.result()]
    client_cores = (time.process_time() - cpu_s) / (time.perf_counter() - begin)
    times = [(sent, ended) for status, sent, ended in answers if status == http.client.OK]
    return slice_of(times, start, end, failed=len(answers) - len(times), client_cores=round(client_cores, 3))


def slice_of(
    times: list[tuple[float, float]], start: float, end: float, failed: int = 0, client_cores: float = 0.0
) -> Slice:
    """Count the requests, each (sent, answered) in seconds, that were answered between start and end."""
    latencies = [answered - sent for sent, answered in times if start <= answered < end]
    return Slice(
        requests_per_s=round(len(latencies) / (end - start), 2),
        p50_ms=round(statistics.median(latencies) * 1000, 3) if latencies else 0.0,
        answered=len(times),
        failed=failed,
        client_cores=client_cores,
    )
