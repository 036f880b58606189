"""`remora demo`: data, a search, an endpoint with the champion, a question to it.

On drawings, with a search that stops two of four variants; or on photographs, `--photos`, with two variants.
"""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path

from rich.console import Console

from remora import catalog
from remora.commands.data import build, build_of_photos, check_stamps
from remora.commands.options import DemoOptions
from remora.commands.report import report_line
from remora.commands.run import flags, live
from remora.data.outputs import writes
from remora.errors import ClusterError, ServingError
from remora.evaluation.benchmarks.own import own_benchmark
from remora.files import write_json
from remora.pipeline.search.records import ResultRecord
from remora.pipeline.search.search import result_file
from remora.processes import Child, remora_command
from remora.reporting.columns import literal
from remora.reporting.results import spent_lines, stopped_lines
from remora.reporting.story import print_answer, print_champion, print_heading
from remora.reporting.tables import scores_table, stages_table
from remora.runs import Store, read_space, variant_name, variants_of
from remora.serving.client import ask, curl_command
from remora.training.meter import duration

SPACE = Path(__file__).parent / "demo.yaml"
HEADLINE, UNSEEN = "easy-vqa", "openmoji-unseen"
PHOTO_SPACE = SPACE.with_name("demo-photos.yaml")
PHOTO_HEADLINE, PHOTO_UNSEEN = "photos-scenes", "photos-unseen"
READY_S = 180.0


def demo(options: DemoOptions) -> None:
    """Run the whole demo; exits with an error if any of it fails."""
    began = time.time()
    console = literal()
    store = Store(options.runs)
    store.check_writable()
    port = _port(options.port)

    check_stamps(options)
    photos = options.photos
    spec, headline, unseen = (PHOTO_SPACE, PHOTO_HEADLINE, PHOTO_UNSEEN) if photos else (SPACE, HEADLINE, UNSEEN)

    print_heading(console, "1 of 4  Data")
    if photos:
        sources = "Tux Paint's photographs (GPL-2.0-or-later)"
        manifest = build_of_photos(options.runs, console, options.stamps)
    else:
        sources = "OpenMoji (CC-BY-SA-4.0) and easy-VQA (MIT)"
        manifest = build(options.runs, console)
    console.print(
        f"{sum(manifest['pictures'].values()):,} pictures from {sources}, "
        f"{sum(sum(c.values()) for c in manifest['concepts'].values()):,} concepts, "
        f"{sum(manifest['concepts']['unseen'].values()):,} of them never seen in training: "
        f"{options.runs / 'data' / ('photos' if photos else 'demo')}",
        highlight=False,
    )

    told = "2 recipes" if photos else "2 connectors x 2 recipes, two of four stopped half way"
    print_heading(console, f"2 of 4  Search: {told}")
    space = read_space(spec)
    names = [variant_name(v) for v in variants_of(space)]
    if result_file(options.runs, space.name).exists():
        console.print("An earlier run finished this search; stage runs that have not changed are reused.")
    live(options.place, "search", spec, space.name, names, console)
    result = json.loads(result_file(options.runs, space.name).read_text())
    if result["ended"] < began:
        raise ClusterError(f"the search ended without a result; see {options.runs / 'logs'}")

    print_heading(console, "3 of 4  Results")
    titles = {name: catalog.benchmark(name).title for name in space.benchmarks}
    console.print(scores_table(result["variants"], result["choice"], titles))
    for line in stopped_lines(result["others"]):
        console.print(line, highlight=False)
    console.print(stages_table([*result["variants"], *result["others"]]))
    counts = result["stage_runs"]
    console.print(
        f"Stage runs: {counts['planned']} planned by {len(names)} variants, {counts['trained']} trained, "
        f"{counts['reused']} reused (shared or finished before), {len(result['others'])} stopped."
    )
    for line in spent_lines(result["steps"]):
        console.print(line, highlight=False)
    print_champion(console, result, titles)

    print_heading(console, "4 of 4  Endpoint")
    served = space.champion.register_as
    champion = [f"{served}@champion"] if photos else []
    command = remora_command("serve", *champion, *flags(options.place), "--port", str(port), "--no-keys")
    endpoint = Child(command, options.runs / "logs" / "serve.log")
    try:
        url = _wait_ready(endpoint, console)
        question = own_benchmark(unseen).listed(store.data)[0]
        answer = ask(url, question.image, question.text, model=served)
        print_answer(console, str(question.image), question.text, answer, question.answer)
        summary = _summary(result, headline, time.time() - began, {
            "image": str(question.image), "question": question.text, "answer": answer, "expected": question.answer,
        })  # fmt: skip
    except BaseException:
        endpoint.stop()
        raise
    if options.keep:
        console.print(
            f"\nThe endpoint stays up at {url} (process {endpoint.process.pid}); stop it: kill {endpoint.process.pid}"
        )
    else:
        with console.status("stopping the endpoint"):
            endpoint.stop()
        serve = " ".join(["remora serve", *champion, f"--runs {options.runs} --port {port} --no-keys"])
        console.print(f"\nEndpoint (stopped again; start it with `{serve}`, or run the demo with --keep): {url}")
    if photos:
        console.print(f"A picture of your own: remora chat {url} --image YOURS.jpg", highlight=False, soft_wrap=True)
    console.print(
        curl_command(url, question.image, question.text, served), markup=False, highlight=False, soft_wrap=True
    )
    console.print(f"MLflow: remora ui --runs {options.runs}", highlight=False)
    console.print(report_line(options.runs, space.name, began), highlight=False, soft_wrap=True)
    console.print(f"Finished in {duration(time.time() - began)}.")
    if options.out:
        with writes(options.out, "--out"):
            write_json(options.out, summary)


def _port(asked: int | None) -> int:
    """The requested port; without one 8000, or any free one.

    Raises:
        ServingError: the requested port is in use.
    """
    for port in [asked] if asked else [8000, 0]:
        try:
            with socket.create_server(("127.0.0.1", port)) as s:
                return int(s.getsockname()[1])
        except OSError:
            continue
    raise ServingError(
        f"port {asked} is in use; choose another with --port N, or leave it out to have a free one found"
    )


def _wait_ready(endpoint: Child, console: Console) -> str:
    """The endpoint's URL once it answers.

    Raises:
        ServingError: it ended or timed out.
    """
    end = time.monotonic() + READY_S
    with console.status(f"starting two replicas (log: {endpoint.log})"):
        while time.monotonic() < end:
            for line in endpoint.log.read_text(errors="replace").splitlines():
                if line.startswith("ready: "):
                    return line.removeprefix("ready: ")
            if not endpoint.running:
                raise endpoint.error()
            time.sleep(0.2)
    raise ServingError(f"the endpoint was not ready after {READY_S:.0f} s (log: {endpoint.log})")


def _summary(result: ResultRecord, headline: str, seconds: float, answer: dict[str, str]) -> dict[str, object]:
    """What --out writes; a variant's own figures are those of the benchmark `headline`."""
    keys = ("accuracy", "ci", "blind", "question_only", "n")
    variants = [
        {
            "name": v["name"],
            **{k: figure for k, figure in v["benchmarks"][headline].items() if k in keys},
            "benchmarks": v["benchmarks"],
            "stages": v["stages"],
        }
        for v in result["variants"]
    ]
    return {
        "variants": variants,
        "others": result["others"],
        "champion": result["champion"],
        "choice": result["choice"],
        "stage_runs": result["stage_runs"],
        "seconds": seconds,
        "answer": answer,
    }
