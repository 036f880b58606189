"""Remora: compose, train, search, measure and serve small multimodal models on Ray.

    import remora

    outcome = remora.train("jobs/demo-base.yaml", local=True)
    model = remora.load(outcome.bundle)
    model.answer("cat.png", "What is this?")

Each function does the same as the command of its name (`remora --help`), by the same code and options, and returns the
result as an object. Errors are `remora.errors.RemoraError`s. None means an option's default; the run folder is
REMORA_RUNS or ~/remora unless `runs` names another. docs/python.md has an example.

docs/architecture.md has the rooms and their import rules. This module imports nothing, so that `import remora` and
`remora --help` stay instant: each function loads what it needs.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing.TYPE_CHECKING without the import
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from os import PathLike

    from remora.commands.evaluate import Evaluation
    from remora.evaluation.report import Report
    from remora.inference.loaded import LoadedModel
    from remora.pipeline.origin.explanation import Explanation
    from remora.pipeline.promotion import Promotion
    from remora.pipeline.search.search import Result
    from remora.pipeline.variant import Outcome
    from remora.planning import Plan

    File = str | PathLike[str]

__version__ = "0.1.0"
__all__ = ["evaluate", "explain", "load", "plan", "promote", "score", "search", "serve", "train"]


def load(model: File, *, runs: File | None = None, tracking_uri: str | None = None) -> LoadedModel:
    """Load a model to ask: `remora.load(model).answer(image, text)`.

    Args:
        model: A variant's name, the folder of a bundle, or name@alias of the registry.

    Raises:
        RemoraError: no model with that name, several, or one with damaged files.
    """
    from remora.extras import needs

    with needs("model", "torch"):
        from remora.inference import Answerer
        from remora.inference.loaded import LoadedModel
        from remora.sharing.node import run_folder
        from remora.tracking import find_model

        place = run_folder(runs)
        folder = find_model(str(model), place, tracking_uri).folder
        return LoadedModel(Answerer.load(folder, place / "cache"), folder)


def train(
    spec: File,
    *,
    settings: Mapping[str, object] | Iterable[str] = (),
    local: bool = False,
    address: str | None = None,
    tracking_uri: str | None = None,
    runs: File | None = None,
    max_hours: float | None = None,
    max_cost: float | None = None,
    aloud: bool = False,
) -> Outcome:
    """Train and measure one variant: its stage runs (trained or reused), its bundle, its scores.

    Args:
        spec: A variant's YAML.
        settings: Keys of the spec or its stages, `{"finetune.lr": 1e-4}`, as `--set` gives them.
        local: Without Ray, on this machine.
        address: Ray cluster to use; default: RAY_ADDRESS, or a new one on this machine.
        max_hours: Begin nothing if what is left is planned to take more.
        max_cost: The same of money, at `cluster.gpu_price`.
        aloud: Print progress.

    Raises:
        RemoraError: what stopped it; finished stage runs are kept.
    """
    from remora.extras import needs

    with needs("train", "deepspeed"):
        from remora.commands.options import TrainOptions
        from remora.commands.run import trained

        where = {"address": address, "local": local, "tracking_uri": tracking_uri, "runs": runs}
        given = {"spec": spec, "settings": settings, "max_hours": max_hours, "max_cost": max_cost, **where}
        return trained(TrainOptions.of(given), aloud)


def search(
    spec: File,
    *,
    settings: Mapping[str, object] | Iterable[str] = (),
    local: bool = False,
    address: str | None = None,
    tracking_uri: str | None = None,
    smoke: bool = False,
    runs: File | None = None,
    max_hours: float | None = None,
    max_cost: float | None = None,
    aloud: bool = False,
) -> Result:
    """Train and measure every variant of a space on Ray and register the best. Returns every outcome and the champion.

    Args:
        spec: A space's YAML.
        settings: As of `train`.
        local: Run in this process, without Ray.
        address: Ray cluster to use; default: RAY_ADDRESS, or a new one on this machine.
        smoke: Run the space's trial run of minutes.
        max_hours: As of `train`.
        max_cost: As of `train`.
        aloud: Print progress.

    Raises:
        RemoraError: what stopped it; finished stage runs are kept.
    """
    from remora.extras import needs

    with needs("train", "deepspeed", "ray"):
        from remora.commands.options import SearchOptions
        from remora.commands.run import searched

        where = {"address": address, "local": local, "tracking_uri": tracking_uri, "runs": runs}
        given = {
            "spec": spec,
            "settings": settings,
            "smoke": smoke,
            **where,
            "max_hours": max_hours,
            "max_cost": max_cost,
        }
        return searched(SearchOptions.of(given), aloud)


def evaluate(
    model: File,
    benchmarks: str | Iterable[str],
    *,
    data: File | None = None,
    limit: int | None = None,
    weights: str = "float32",
    protocol: str | None = None,
    judge_model: str | None = None,
    out: File | None = None,
    workers: int = 1,
    gpus_per_worker: float = 0.0,
    local: bool = False,
    address: str | None = None,
    tracking_uri: str | None = None,
    runs: File | None = None,
    aloud: bool = False,
) -> Evaluation:
    """Ask a model every question of some benchmarks and score its answers by the papers' rules.

    Args:
        model: A variant's name, the folder of a bundle, or name@alias of the registry.
        benchmarks: Names, YAMLs of your own, or "all".
        data: The benchmarks' folders; default: <run folder>/data/eval.
        limit: Ask only the first questions of each.
        weights: int8 for the language model's linear layers in 8 bits, on CPUs.
        protocol: Way of scoring; default: the papers'.
        out: Also write the reports to this folder.
        workers: Processes that answer, with `gpus_per_worker` GPUs each.
        local: Without Ray, in this process.
        aloud: Print progress.

    Raises:
        RemoraError: what stopped it; finished benchmarks are kept.
    """
    from remora.extras import needs

    with needs("model", "torch"):
        from remora.commands.evaluate import evaluated
        from remora.commands.options import EvaluateOptions
        from remora.commands.run import say, say_nothing
        from remora.reporting.columns import literal, silent

        given = {
            "model": str(model), "benchmarks": benchmarks, "data": data, "limit": limit,
            "weights": weights, "protocol": protocol, "judge_model": judge_model, "out": out,
            "workers": workers, "gpus_per_worker": gpus_per_worker,
            "local": local, "address": address, "tracking_uri": tracking_uri, "runs": runs,
        }  # fmt: skip
        return evaluated(EvaluateOptions.of(given), literal() if aloud else silent(), say if aloud else say_nothing)


def score(
    benchmark: str,
    data: File,
    answers: File,
    *,
    questions: File | None = None,
    protocol: str | None = None,
    judge_model: str | None = None,
    runs: File | None = None,
) -> Report:
    """Score an answer file by a benchmark's published rules; needs no model.

    Args:
        benchmark: vqav2, gqa, pope, … (`remora catalog benchmarks`).
        data: Its distributed file or folder.
        answers: A file in LLaVA's or the official format.
        questions: LLaVA's question file, if the answers use its numbers.

    Raises:
        RemoraError: no such benchmark or protocol, or files that do not match it.
    """
    from remora.commands.options import ScoreOptions
    from remora.commands.score import scored

    given = {
        "benchmark": benchmark, "data": data, "answers": answers, "questions": questions, "protocol": protocol,
        "judge_model": judge_model, "runs": runs,
    }  # fmt: skip
    return scored(ScoreOptions.of(given))


def plan(
    spec: File,
    *,
    settings: Mapping[str, object] | Iterable[str] = (),
    smoke: bool = False,
    slots: int | None = None,
    rate: float | None = None,
    price: float | None = None,
    address: str | None = None,
    gpu: str | None = None,
    gpus: int | None = None,
    prices: File | None = None,
    calibrate: bool = False,
    max_hours: float | None = None,
    max_cost: float | None = None,
    runs: File | None = None,
) -> Plan:
    """Plan a space or a variant: which stage runs exist, which will be trained, what it takes with and without sharing.

    Args:
        spec: A variant's or a space's YAML.
        settings: As of `train`.
        slots: Groups of workers that train at once; default: as many as have room here.
        rate: Operations a second of one worker; default: as measured in the run folder, or an assumption.
        price: Of a GPU-hour; default: the spec's.
        address: Ray cluster whose room counts.
        gpu: A device of the catalog, `h100` or `cpu`: `sizes` tells the memory of each stage there.
        gpus: How many of them; default: the spec's workers.
        prices: YAML: device -> price of an hour.
        calibrate: First take a few real steps of each kind of stage, for its time.
        max_hours: Limit of the whole.
        max_cost: Limit of the whole.

    Raises:
        RemoraError: what would stop the spec from running, or it takes more than the limits. A stage that does not fit
            its device is no error here: its `change` says what makes it fit.
    """
    from remora.commands.plan_options import PlanOptions
    from remora.commands.show import planned
    from remora.reporting.columns import silent

    given = {"spec": spec, "settings": settings, "smoke": smoke, "slots": slots, "rate": rate, "price": price}
    device = {
        "gpu": gpu,
        "gpus": gpus,
        "prices": prices,
        "calibrate": calibrate,
        "max_hours": max_hours,
        "max_cost": max_cost,
    }
    return planned(PlanOptions.of(given | device | {"address": address, "runs": runs}), silent())


def explain(model: File, *, runs: File | None = None, tracking_uri: str | None = None) -> Explanation:
    """Where a model comes from: who promoted it by which figures, what chose it, its stage runs, data, parts, licences.

    Args:
        model: An endpoint's URL, a variant's name, the folder of a bundle, or name@alias of the registry.

    Raises:
        RemoraError: no such model, or the endpoint or registry does not answer.
    """
    from remora.commands.explain import explanation
    from remora.commands.options import ExplainOptions

    return explanation(ExplainOptions.of({"model": str(model), "runs": runs, "tracking_uri": tracking_uri}))


def promote(
    model: File | None = None,
    *,
    benchmarks: str | Iterable[str] = (),
    alpha: float = 0.05,
    force: str | None = None,
    name: str = "remora",
    alias: str = "champion",
    tracking_uri: str | None = None,
    runs: File | None = None,
) -> Promotion:
    """Move a registered alias to a model, unless it is significantly worse than the one that has it.

    Args:
        model: A variant's name, the folder of a bundle, name@alias of the registry, or an MLflow run's id.
        benchmarks: What the two are compared on; default: all that today's model was measured on.
        alpha: The significance level of the gate.
        force: A reason to promote it whatever the gate says; it is recorded.

    Raises:
        GateError: it is significantly worse, or was not measured on the same questions.
        RemoraError: no such model, or MLflow is down.
    """
    from remora.commands.options import PromoteOptions
    from remora.commands.promote import promoted

    given = {
        "model": model and str(model), "benchmarks": benchmarks, "alpha": alpha, "force": force, "name": name,
        "alias": alias, "tracking_uri": tracking_uri, "runs": runs,
    }  # fmt: skip
    return promoted(PromoteOptions.of(given))


def serve(
    model: File | list[File] | tuple[File, ...] = ("remora@champion",),
    *,
    pin: bool = False,
    host: str = "127.0.0.1",
    port: int = 8000,
    keys: File | None = None,
    no_keys: bool = False,
    trace: bool = False,
    engine: str = "builtin",
    weights: str = "float32",
    canary: str | None = None,
    shadow: float = 0.2,
    share: str = "0.05,0.25,0.5",
    rule: tuple[str, ...] = (),
    no_promote: bool = False,
    ready: Callable[[str, str, str | None], None] | None = None,
    address: str | None = None,
    tracking_uri: str | None = None,
    runs: File | None = None,
) -> None:
    """Serve a model by OpenAI's chat completions with images, until it is interrupted (Ctrl-C).

    Args:
        model: A variant's name, the folder of a bundle, or name@alias of the registry, which is followed; several:
            requests choose one by its name.
        pin: Stay with the version that name@alias is now.
        keys: A file of keys (`remora keys add`); default: one key is made.
        no_keys: Requests need no key; only with a host of this machine.
        trace: A trace of each answer in MLflow, without texts and pictures.
        engine: What runs the language model: builtin or vllm.
        weights: int8 for the language model's linear layers in 8 bits, on CPUs.
        canary: A candidate beside the first model.
        shadow: Share of the requests that both versions answer.
        share: Shares of the clients that get the candidate's answers, in steps.
        rule: Settings of its rule: `alpha=0.01`.
        no_promote: Only tell the verdict.
        ready: Called once it answers, with its URL, the model's name there, and the key if one was made.

    Raises:
        RemoraError: no such model, a port in use, a cluster that does not answer.
    """
    from remora.extras import needs

    with needs("serve", "ray", "uvicorn"):
        from remora.commands.endpoint_options import ServeOptions
        from remora.commands.serve import served

        models = map(str, model) if isinstance(model, list | tuple) else (str(model),)
        given = {
            "model": tuple(models), "pin": pin, "host": host, "port": port, "address": address, "trace": trace,
            "tracking_uri": tracking_uri, "runs": runs, "keys": keys, "no_keys": no_keys, "engine": engine,
            "weights": weights, "canary": canary, "shadow": shadow, "share": share, "rule": rule,
            "no_promote": no_promote,
        }  # fmt: skip
        served(ServeOptions.of(given), ready or (lambda url, name, key: None))
