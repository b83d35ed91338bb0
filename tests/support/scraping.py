"""What the tests of metrics share: scraping a real process over HTTP, and reading what it says."""

import re
from dataclasses import dataclass
from typing import Any

import httpx2
from prometheus_client.core import Metric
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from support.harness import BOUND_S, ROOT, Process, eventually

MONITORING = ROOT / "docs" / "how-to" / "monitoring.md"


async def url_of(child: Process) -> str:
    """Where a process says that its metrics are."""
    await child.until_said("metrics at http://")
    found = re.search(r"metrics at (http://127\.0\.0\.1:\d+/metrics)\b", child.log.read_text(encoding="utf-8"))
    assert found is not None
    return found[1]


async def get(url: str, **headers: str) -> httpx2.Response:
    async with httpx2.AsyncClient(timeout=BOUND_S) as http:
        return await http.get(url, headers=headers)


def of_openmetrics(text: str) -> list[Metric]:
    """What the reader of the stricter format makes of a text."""
    return list(openmetrics.text_string_to_metric_families(text))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]


@dataclass(frozen=True)
class Scrape:
    """All samples of one moment: by name and labels."""

    samples: dict[tuple[str, tuple[tuple[str, str], ...]], float]

    def value(self, name: str, **labels: str) -> float:
        return self.samples[name, tuple(sorted(labels.items()))]

    @property
    def series(self) -> set[tuple[str, tuple[tuple[str, str], ...]]]:
        return set(self.samples)

    @property
    def label_values(self) -> set[str]:
        return {value for _, labels in self.samples for name, value in labels if name != "le"}


async def scrape(url: str) -> Scrape:
    answer = await get(url)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    samples = [sample for family in text_string_to_metric_families(answer.text) for sample in family.samples]
    found = {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in samples}
    assert len(found) == len(samples), "a series twice"
    return Scrape(found)


async def until(url: str, wanted: float, name: str, **labels: str) -> Scrape:
    """Scrape until a sample has the value that is wanted; fails with the last one."""

    async def there() -> Scrape | None:
        found = await scrape(url)
        return found if found.value(name, **labels) == wanted else None

    return await eventually(there, f"{name} {labels} is {wanted:g}")


def documented(whose: str) -> dict[str, tuple[str, tuple[str, ...]]]:
    """The table of metrics in the documentation: type and labels by name."""
    text = MONITORING.read_text(encoding="utf-8")
    table = text.partition(f"<!-- metrics of the {whose}: begin -->")[2].partition("<!-- metrics of")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.strip().splitlines()[2:]]
    assert rows
    return {row[0].strip("`"): (row[1], tuple(re.findall(r"`(\w+)`", row[2]))) for row in rows}


def registered(registry: Any) -> dict[str, tuple[str, tuple[str, ...]]]:
    """The same of a registry, but for what tells of the process alone."""
    found: dict[str, tuple[str, tuple[str, ...]]] = {}
    for family in registry.collect():
        if not family.name.startswith("process_"):
            name = family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")
            labels = {name for sample in family.samples for name in sample.labels if name != "le"}
            found[name] = ("gauge" if family.type == "info" else family.type, tuple(sorted(labels)))
    return found
