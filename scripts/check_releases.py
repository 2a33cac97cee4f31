"""Check that the table of Triton releases was compared with NVIDIA's pages in the last half year."""

from __future__ import annotations

import json
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

TABLE = Path(__file__).parents[1] / "tritonkit" / "triton" / "releases.json"
MAX_AGE = timedelta(days=183)
WHAT_TO_DO = """Compare it with NVIDIA's pages, and then set "checked" to today:
- releases, CUDA and driver: docs/introduction/compatibility.md of triton-inference-server/server, release notes
- security bulletins for Triton: raise IMAGE_TAG and NEWEST_CVE in tritonkit/triton/releases.py to the oldest safe
  release, then .env.example, docker-compose.yml, deploy/Dockerfile.gpu and docs/security.md"""


def describe_outdated_table(checked: date, today: date) -> str:
    """Return what to do about an outdated table; empty for a recent one. checked: the date of the last comparison."""
    age = today - checked
    if age <= MAX_AGE:
        return ""
    return f"{TABLE.name} was last compared {age.days} days ago ({checked}), the limit is {MAX_AGE.days}. {WHAT_TO_DO}"


def main() -> int:
    """Return 1 if the table is outdated."""
    checked = date.fromisoformat(json.loads(TABLE.read_text(encoding="utf-8"))["checked"])
    problem = describe_outdated_table(checked, datetime.now(UTC).date())
    if problem:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main())
