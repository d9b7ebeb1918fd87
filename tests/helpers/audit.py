"""Known vulnerabilities of what is installed: ``make audit``, a part of ``make check``.

pip-audit asks PyPI's advisories. Where PyPI does not know a package it leaves it out, and ends
with "No known vulnerabilities found" even if that was every package, as behind a mirror. So its
JSON is read here: a vulnerability fails, nothing audited is said loudly and does not, because
somebody without a way to PyPI can do nothing about it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

SECONDS = 15  # for each answer of the service
ALL_SECONDS = 300
# Advisories that do not reach us: the id, and why. One that is not found any more is said.
IGNORED: Mapping[str, str] = {}


def verdict(report: Mapping[str, Any] | None, ignored: Mapping[str, str]) -> tuple[int, list[str]]:
    """Exit code and lines, of pip-audit's JSON; None where it gave none."""
    packages = [] if report is None else report["dependencies"]
    audited = [each for each in packages if "skip_reason" not in each]
    if not audited:
        return 0, [
            "NOT AUDITED: PyPI's advisories did not answer for a single package, so nothing is "
            "known of vulnerabilities; run 'make audit' where https://pypi.org can be reached"
        ]
    lines, open_ids, seen = [], 0, set()
    for package in audited:
        for advisory in package["vulns"]:
            ids = {advisory["id"], *advisory.get("aliases", ())}
            seen |= ids
            what = f"{package['name']} {package['version']}: {advisory['id']}"
            if reasons := [ignored[each] for each in sorted(ids) if each in ignored]:
                lines.append(f"ignored: {what}: {reasons[0]}")
                continue
            open_ids += 1
            fixed = ", ".join(advisory.get("fix_versions", ())) or "no version yet"
            lines.append(f"VULNERABLE: {what}, fixed in {fixed}")
    lines += [f"no longer found, take it off the list: {each}" for each in ignored.keys() - seen]
    if left := sorted(each["name"] for each in packages if "skip_reason" in each):
        lines.append(f"not audited, PyPI does not know them: {', '.join(left)}")
    lines.append(f"{len(audited)} packages audited, {open_ids} open vulnerabilities")
    return int(open_ids > 0), lines


def ask() -> dict[str, Any] | None:
    """pip-audit's JSON for this environment; None where its service cannot be reached."""
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off"]
    try:
        done = subprocess.run(
            [*command, "--timeout", str(SECONDS)],
            capture_output=True,
            text=True,
            timeout=ALL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        print(done.stderr.strip().rpartition("\n")[2], file=sys.stderr)
        return None
    return answer


def main() -> int:
    """Print what was found; the exit code."""
    code, lines = verdict(ask(), IGNORED)
    print("\n".join(lines), file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
