"""`make bench`: what the server adds to onnxruntime, against raw `session.run` of the same graphs in the same run.

Four scenarios (scenarios.py) on a 768/12/3072 block, in nested JSON, flat JSON and binary, then what the codecs cost
(codecs.py). Raw and served take turns, since the machine's speed drifts; bodies are prepared, and answers are checked
before and not parsed during the measurement. It ends with 1 if an answer is wrong or a request fails; goals (goals.py)
are only shown.
"""

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path

from load_tests.ceiling import PROVIDERS, THREADS, Ceiling, lay_out_graphs
from load_tests.codecs import measure_codecs
from load_tests.drawing import draw, print_codecs, print_goals, print_tables
from load_tests.formats import GlassblockJson, InferenceBinary, InferenceJson
from load_tests.generator import generator
from load_tests.goals import BINARY, FLAT, NESTED
from load_tests.measure import Bench, Subject
from load_tests.report import describe, faults, save
from load_tests.rounds import run_rounds
from load_tests.scenarios import Scenario
from load_tests.server import MODEL, export_model, running_server


def ours(models: Path, folder: Path, model: str = MODEL, provider: str = "cpu") -> list[Subject]:
    """This project's server with its defaults, spoken to in nested JSON, in flat JSON and in binary."""
    start = partial(running_server, models, folder, threads=THREADS, provider=provider)

    def forward(_scenario: Scenario) -> str:
        return f"/v1/models/{model}/forward"

    def infer(scenario: Scenario) -> str:
        return f"/v2/models/{model}{'.probes' * scenario.attention}/infer"

    return [
        Subject(NESTED, "Glassblock (JSON)", GlassblockJson(), forward, start),
        Subject(FLAT, "Glassblock (flat JSON)", InferenceJson(), infer, start),
        Subject(BINARY, "Glassblock (binary)", InferenceBinary(), infer, start),
    ]


def arguments(description: str, *, seconds: float, rounds: int) -> argparse.ArgumentParser:
    """The flags of both commands."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seconds", type=float, default=seconds, help="of load in each round of each scenario")
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="folder of the JSON file and the plot")
    return parser


def main() -> None:
    """Measures, prints, writes bench.json and bench.png."""
    parser = arguments("Latency, throughput and cost against raw session.run.", seconds=4, rounds=4)
    parser.add_argument("--provider", choices=PROVIDERS, default="cpu", help="of the raw sessions and of the server")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, generator() as run_job:
        folder = Path(name)
        graphs = lay_out_graphs(export_model(folder / "models"), folder / "graphs")
        bench = Bench(Ceiling(graphs, given.provider), run_job, window_s=given.seconds)
        subjects = ours(folder / "models", folder, provider=given.provider)
        command = f"make bench SECONDS={given.seconds:g} ROUNDS={given.rounds} PROVIDER={given.provider}"
        report = describe(run_rounds(bench, subjects, given.rounds), subjects, bench, given.rounds, command)
        print_tables(report)
        print_goals(report)
        sound = [subject for subject in subjects if not faults(report, [subject.name])]
        report["codecs"] = measure_codecs(sound, bench.ceiling.hidden_size) if sound else {}
    print_codecs(report)
    save(report, given.out / "bench.json")
    draw(report, given.out / "bench.png")
    print(f"{given.out}/bench.json and bench.png are written")
    sys.exit("\n".join(faults(report, [subject.name for subject in subjects])) or None)


if __name__ == "__main__":
    main()
