"""``make bench``: the table of ingest and latency, against their goals."""

from rich.console import Console
from rich.table import Table

from tests.bench import ingest, latency


def _quantiles(values: dict[str, float]) -> str:
    return f"p50 {values['p50_s'] * 1e3:.0f} ms, p95 {values['p95_s'] * 1e3:.0f} ms"


if __name__ == "__main__":
    table = Table("what", "measured", "goal")
    rates = ingest.measure()
    table.add_row("ingest, bare loop", f"{rates['bare_fps']:.0f} frames/s", "")
    table.add_row("ingest, receiver and assembler", f"{rates['ours_fps']:.0f} frames/s", "")
    table.add_row("ingest ratio", f"{rates['ratio']:.2f}", ">= 0.9")
    table.add_row("ingest ratio, first scan of a service", f"{rates['ratio_first_scan']:.2f}", "")
    busy = latency.measure(pause_s=0.0)["inference"]
    table.add_row("latency, inference, next scan and polish beside it", f"p95 {busy['p95_s'] * 1e3:.0f} ms", "")
    alone, beside = latency.measure(), latency.measure(refine=True)
    for name, values in alone.items():
        goal = "p95 <= 150 ms" if name == "inference" else ""
        table.add_row(f"latency, {name}", _quantiles(values), goal)
        table.add_row(f"latency, {name}, a refinement running beside it", _quantiles(beside[name]), goal)
    Console().print(table)
