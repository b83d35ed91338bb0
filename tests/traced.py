"""Run a module of agentbus in a process that has OpenTelemetry's SDK: `traced.py FILE simple|batch MODULE ARGS`.

Spans go to the file, a line of JSON for each: when they end, or once the SDK is told to send what it has collected.
"""

import runpy
import sys
from pathlib import Path

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SimpleSpanProcessor

if __name__ == "__main__":
    file, how, module, *args = sys.argv[1:]
    out = Path(file).open("a")  # noqa: SIM115  # for as long as the process lives
    exporter = ConsoleSpanExporter(out=out, formatter=lambda span: f"{span.to_json(indent=None)}\n")
    provider = TracerProvider()
    provider.add_span_processor(
        SimpleSpanProcessor(exporter)
        if how == "simple"
        else BatchSpanProcessor(exporter, schedule_delay_millis=3_600_000)
    )
    trace.set_tracer_provider(provider)
    sys.argv = [module, *args]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
