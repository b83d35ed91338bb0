"""Run a module of agentbus in a process that has OpenTelemetry's SDK: `traced.py FILE simple|batch|stuck MODULE ARGS`.

Spans go to the file, a line of JSON for each: when they end (`simple`), or once the SDK is told to send what it has
collected (`batch`). Or the collector takes them and never answers (`stuck`).
"""

import runpy
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    ConsoleSpanExporter,
    SimpleSpanProcessor,
    SpanExporter,
    SpanExportResult,
)


class StuckExporter(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        time.sleep(1000)
        return SpanExportResult.FAILURE if spans else SpanExportResult.SUCCESS


if __name__ == "__main__":
    file, how, module, *args = sys.argv[1:]
    out = Path(file).open("a", encoding="utf-8")  # noqa: SIM115  # for as long as the process lives
    written = ConsoleSpanExporter(out=out, formatter=lambda span: f"{span.to_json(indent=None)}\n")
    exporter = StuckExporter() if how == "stuck" else written
    provider = TracerProvider()
    provider.add_span_processor(
        SimpleSpanProcessor(exporter)
        if how == "simple"
        else BatchSpanProcessor(exporter, schedule_delay_millis=3_600_000)
    )
    trace.set_tracer_provider(provider)
    sys.argv = [module, *args]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
