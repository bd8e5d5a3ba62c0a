"""`make bench`: what the server adds to onnxruntime, against raw `session.run` of the same graphs in the same run.

Four scenarios (scenarios.py) on a 768/12/3072 block, JSON both ways. Raw and served take turns, since the machine's
speed drifts; bodies are prepared, and answers are checked before and not parsed during the measurement. It ends with 1
if an answer is wrong or a request fails.
"""

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path

from load_tests.ceiling import THREADS, Ceiling, lay_out_graphs
from load_tests.drawing import draw, print_goals, print_tables
from load_tests.formats import GlassblockJson
from load_tests.generator import generator
from load_tests.measure import Bench, Subject
from load_tests.report import describe, faults, save
from load_tests.rounds import run_rounds
from load_tests.server import MODEL, export_model, running_server

NAME = "glassblock-json"


def ours(models: Path, folder: Path, model: str = MODEL) -> Subject:
    """This project's server with its defaults, in JSON."""
    return Subject(
        name=NAME,
        title="Glassblock (JSON)",
        format=GlassblockJson(),
        path=lambda _scenario: f"/v1/models/{model}/forward",
        start=partial(running_server, models, folder, threads=THREADS),
    )


def arguments(description: str, *, seconds: float, rounds: int) -> argparse.ArgumentParser:
    """The flags of both commands."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seconds", type=float, default=seconds, help="of load in each round of each scenario")
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="folder of the JSON file and the plot")
    return parser


def main() -> None:
    """Measures, prints, writes bench.json and bench.png."""
    given = arguments("Latency, throughput and cost against raw session.run.", seconds=4, rounds=5).parse_args()
    with tempfile.TemporaryDirectory() as name, generator() as run_job:
        folder = Path(name)
        graphs = lay_out_graphs(export_model(folder / "models"), folder / "graphs")
        bench = Bench(Ceiling(graphs), run_job, window_s=given.seconds)
        subject = ours(folder / "models", folder)
        rows = run_rounds(bench, [subject], given.rounds)
    command = f"make bench SECONDS={given.seconds:g} ROUNDS={given.rounds}"
    report = describe(rows, [subject], bench, given.rounds, command)
    print_tables(report)
    print_goals(report, NAME)
    save(report, given.out / "bench.json")
    draw(report, given.out / "bench.png")
    print(f"{given.out}/bench.json and bench.png are written")
    sys.exit("\n".join(faults(report, NAME)) or None)


if __name__ == "__main__":
    main()
