"""`make bench-peers`: the scenarios of `make bench` on other servers of the same graphs, in the same run.

Each peer has a virtual environment of its own under .cache/peers, is started afresh in each round, and is checked
first. One that cannot be installed, does not start or answers wrongly keeps its row, with the reason. Writes the tables
into docs/benchmarks.md; ends with 1 only if this project's own server failed.
"""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from load_tests.bench import arguments, ours
from load_tests.ceiling import Ceiling, lay_out_graphs
from load_tests.drawing import draw, markdown, print_tables
from load_tests.generator import generator
from load_tests.measure import Bench, Subject
from load_tests.peer_servers import PEERS, PROGRAMS, PeerError, failing, install
from load_tests.report import describe, faults, save
from load_tests.rounds import run_rounds
from load_tests.server import export_model

START, END = "<!-- made by `make bench-peers` -->\n", "<!-- end -->\n"


def subjects(wanted: list[str], venvs: Path, folder: Path, hidden_size: int) -> Iterator[Subject]:
    """The peers whose names begin with one of these, installed; one that cannot be fails when it is started."""
    for peer in PEERS:
        if not any(peer.name.startswith(name) for name in wanted):
            continue
        print(f"installing {peer.program}", file=sys.stderr, flush=True)
        try:
            python = install(PROGRAMS / f"{peer.program}.txt", venvs)
        except PeerError as error:
            yield failing(peer, error)
        else:
            yield peer.subject(python, folder, hidden_size)


def section(report: dict[str, Any]) -> str:
    """What stands between the page's markers."""
    machine = report["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    place = f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, {machine['system']}"
    head = [
        f"{report['date']}, {place}; load average before: {machine['load_average']}.",
        f"Rounds: {report['rounds']}, each of {report['window_s']:g} s a load.",
        "",
        f"Command: `{report['command']}`. Ours: {versions}.",
        "",
    ]
    peers = [f"- {program}: {', '.join(pins)}" for program, pins in report["peers"].items()]
    return "\n".join([*head, *markdown(report), "Versions of the peers:", "", *peers, ""])


def write_page(page: Path, text: str) -> None:
    """Puts the text between the page's markers.

    Raises:
        ValueError: the page has no such markers.
    """
    before, start, rest = page.read_text(encoding="utf-8").partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise ValueError(f"{page} has no place for the tables: {START.strip()} … {END.strip()}")
    page.write_text(f"{before}{START}{text}{END}{after}", encoding="utf-8")


def pins(program: str) -> list[str]:
    """The packages of a peer's environment."""
    lines = (PROGRAMS / f"{program}.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if not line.startswith("#")]


def main() -> None:
    """Measures, prints, writes peers.json, peers.png and the page."""
    parser = arguments("This server and others on the same graphs.", seconds=5, rounds=3)
    parser.add_argument("--peers", nargs="*", default=[peer.name for peer in PEERS], help="names, or how they begin")
    parser.add_argument("--venvs", type=Path, default=Path(".cache/peers"))
    parser.add_argument("--page", type=Path, default=Path("docs/benchmarks.md"))
    given = parser.parse_args()
    names = [peer.name for peer in PEERS]
    if unknown := [name for name in given.peers if not any(known.startswith(name) for known in names)]:
        parser.error(f"no such peer: {', '.join(unknown)}; there are {', '.join(names)}")
    with tempfile.TemporaryDirectory() as name, generator() as run_job:
        folder = Path(name)
        ceiling = Ceiling(lay_out_graphs(export_model(folder / "models"), folder / "graphs"))
        bench = Bench(ceiling, run_job, window_s=given.seconds)
        mine = ours(folder / "models", folder)
        found = [*mine, *subjects(given.peers, given.venvs.resolve(), folder, ceiling.hidden_size)]
        picked = "" if len(given.peers) == len(PEERS) else f' PEERS="{" ".join(given.peers)}"'
        command = f"make bench-peers SECONDS={given.seconds:g} ROUNDS={given.rounds}{picked}"
        report = describe(run_rounds(bench, found, given.rounds), found, bench, given.rounds, command)
    programs = sorted({peer.program for peer in PEERS if any(peer.name == subject.name for subject in found)})
    report["peers"] = {program: pins(program) for program in programs}
    print_tables(report)
    save(report, given.out / "peers.json")
    draw(report, given.out / "peers.png")
    write_page(given.page, section(report))
    print(f"{given.out}/peers.json, peers.png and {given.page} are written")
    sys.exit("\n".join(faults(report, [subject.name for subject in mine])) or None)


if __name__ == "__main__":
    main()
