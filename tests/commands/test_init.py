"""`remora init`: what it writes is a spec that the readers take, fits data and device, and says what each key does."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from remora import catalog
from remora.catalog import LLM, Device, Vision
from remora.cli import main
from remora.commands import init
from remora.commands.init import Asking
from remora.commands.setup_options import InitOptions
from remora.errors import SpecError
from remora.planning.drafting import Wish, drafted, proposed
from remora.runs import read_variant, resolve_stages
from support.tiny import write_records


def wish(**more) -> Wish:
    said = {"vision": "efficientnet-lite0", "connector": "mlp2x_gelu", "llm": "demo-2m", "recipe": "base"}
    return Wish(**{**said, "device": catalog.device("cpu"), "workers": 2, **more})


@pytest.fixture
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(init, "_gpus", lambda: ("cpu", 1))
    return write_records(tmp_path, images=".", pictures=True)


def test_what_it_writes_for_own_data_is_read_and_every_key_is_explained(records, tmp_path, capsys):
    main(["init", "mine.yaml", "--data", records.name, "--runs", str(tmp_path / "runs"), "--yes"])
    said = capsys.readouterr().out
    assert said.splitlines()[-4:] == [
        "next: remora data demo",
        *(f"next: remora {verb} mine.yaml" for verb in ("data check", "plan", "train")),
    ]
    text = (tmp_path / "mine.yaml").read_text()
    assert text.startswith(f"# yaml-language-server: $schema={tmp_path}/runs/schemas/variant.json\n# Written by")
    assert (tmp_path / "runs" / "schemas" / "variant.json").exists()
    blocks = ("overrides:", "align:", "finetune:", "cluster:")
    keys = [line for line in text.splitlines() if not line.startswith("#")]
    assert all(" # " in line or line.strip() in blocks for line in keys)
    variant = read_variant(tmp_path / "mine.yaml")
    for stage in resolve_stages(variant)[1:]:
        assert stage.mixture[0].path == str(records) and stage.steps == 200 and stage.template == "brief"
    main(["render", "mine.yaml", "--runs", str(tmp_path / "runs")])


def test_it_writes_over_nothing_and_refuses_what_cannot_work(records, tmp_path, capsys):
    def refused(*words: str) -> str:
        with pytest.raises(SystemExit) as e:
            main(["init", *words, "--runs", str(tmp_path / "runs"), "--yes"])
        return str(e.value.code)

    (tmp_path / "there.yaml").write_text("mine")
    assert "there.yaml exists, and init writes a new file" in refused("there.yaml")
    assert "next: remora init job.yaml" in refused("job")
    assert "unknown llm 'phi2'; did you mean 'phi-2'?" in refused("a.yaml", "--llm", "phi2")
    assert "unknown device 'h300'" in refused("a.yaml", "--gpu", "h300")
    assert "no known format" in refused("a.yaml", "--data", "mine.docx")
    assert "missing dataset file" in refused("a.yaml", "--data", "nowhere.json")
    assert "benchmark" in refused("a.yaml", "--benchmarks", "nosuch")
    assert "--gpus 0: give how many there are" in refused("a.yaml", "--gpu", "l4", "--gpus", "0")
    assert (tmp_path / "there.yaml").read_text() == "mine" and not (tmp_path / "a.yaml").exists()


@pytest.mark.parametrize("samples", [1, 7, 99, 100, 400, 5_000, 31_999, 32_000, 700_000])
def test_a_stage_of_any_number_of_samples_has_steps_enough(samples):
    _, variant = drafted(wish(data="a.json", samples=samples), [])
    for stage in resolve_stages(variant)[1:]:
        steps = stage.steps or stage.epochs * samples / stage.batch
        assert steps >= 200 and stage.batch in {1 << n for n in range(2, 9)}
        assert stage.steps is None or stage.steps * stage.batch >= samples  # never less than the recipe's one pass
    if samples == 400:  # docs/start.md's figures were measured with these
        assert {(s.batch, s.steps) for s in resolve_stages(variant)[1:]} == {(16, 200)}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("llm", catalog.listed(LLM))
@pytest.mark.parametrize("own", [True, False])
def test_every_language_model_has_a_spec(llm, own):
    said = {"data": "a.json", "samples": 1000} if own else {}
    text, variant = drafted(wish(llm=llm, **said), ["# it"])
    assert text.startswith("# it\n") and yaml.safe_load(text)["llm"] == llm
    if own:
        assert len({stage.template for stage in resolve_stages(variant)}) == 1


@pytest.mark.sampled(3)
@pytest.mark.parametrize("vision", catalog.listed(Vision))
def test_every_encoder_has_room_for_its_pictures(vision):
    _, variant = drafted(wish(vision=vision, llm="qwen2-0.5b", data="a.json", samples=9), [])
    assert all(stage.max_length >= 512 for stage in resolve_stages(variant))


@pytest.mark.parametrize("name", catalog.listed(Device))
def test_a_device_is_offered_parts_and_a_precision_that_it_has(name):
    device = catalog.device(name)
    vision, llm = proposed(device)
    _, variant = drafted(wish(vision=vision, llm=llm, device=device, workers=1), [], fit=False)
    assert variant.cluster.gpus_per_worker == device.is_gpu
    assert not device.is_gpu or device.peak(variant.cluster.precision)


def test_on_a_gpu_every_stage_is_fitted_or_it_says_what_would(monkeypatch):
    """The memory itself is held in tests/planning; here, what is made of it."""
    from remora.planning import fitting
    from remora.runs import memory

    l4 = catalog.device("l4")
    asked = wish(vision="siglip-l-384", llm="qwen2.5-0.5b", device=l4, workers=4)
    ranks = [4]

    def fits(placed):
        assert placed.device.memory == int(0.9 * l4.memory)  # a tenth stays free
        return SimpleNamespace(fits=placed.cluster.zero == 3 or placed.stage.name == "align")

    def change(placed):
        assert placed.stage.name == "finetune"
        return SimpleNamespace(settings={"zero": 3, "offload": "optimizer"}, ranks=ranks[0]) if ranks else None

    monkeypatch.setattr(memory, "stage_memory", fits)
    monkeypatch.setattr(fitting, "cheapest_fit", change)
    text, variant = drafted(asked, [])
    assert (variant.cluster.zero, variant.cluster.offload, variant.cluster.workers) == (3, "optimizer", 4)
    assert yaml.safe_load(text)["cluster"]["offload"] == "optimizer"
    ranks[:] = [8]
    with pytest.raises(
        SpecError,
        match=r"does not fit 4 x NVIDIA L4 with 10% of its memory free; 8 of them would do; take a smaller --llm",
    ):
        drafted(asked, [])
    ranks.clear()
    with pytest.raises(
        SpecError, match=r"does not fit 4 x NVIDIA L4 with 10% of its memory free; take a smaller --llm"
    ):
        drafted(asked, [])


def test_on_a_terminal_it_asks_until_it_understands(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("phi2\nphi-2\n\n"))
    ask = Asking(True)
    assert ask(None, "language model", "demo-2m", init._named(catalog.llm)) == "phi-2"
    assert ask(None, "recipe", "base", init._named(catalog.recipe)) == "base"  # an empty line
    assert ask("share", "recipe", "base", init._named(catalog.recipe)) == "share"  # a flag: not asked
    said = capsys.readouterr().out
    assert said.startswith("language model [demo-2m]: unknown llm 'phi2'; did you mean 'phi-2'?")
    assert Asking(False)(None, "recipe", "base", str) == "base" and "share" not in said
    with pytest.raises(SpecError, match="the answers ended, and nothing was written"):  # Ctrl-D
        ask(None, "recipe", "base", str)


def test_without_a_name_it_writes_job_yaml(records, tmp_path, capsys):
    main(["init", "--data", records.name, "--runs", str(tmp_path / "runs"), "--yes"])
    assert (tmp_path / "job.yaml").exists() and "next: remora train job.yaml" in capsys.readouterr().out


def test_what_is_refused_and_listed_is_what_was_given(records, tmp_path, capsys):
    write_records(tmp_path, "words.json", pictures=False)
    with pytest.raises(SystemExit, match=r"no record of \S+/words.json shows one"):
        main(["init", "--data", "words.json", "--runs", str(tmp_path / "runs"), "--yes"])
    main(["init", "--benchmarks", "gqa,pope", "mme", "--runs", str(tmp_path / "runs"), "--yes"])
    assert yaml.safe_load((tmp_path / "job.yaml").read_text())["benchmarks"] == ["gqa", "pope", "mme"]


def test_the_next_commands_can_be_pasted(records, tmp_path, capsys):
    main(["init", "my spec.yaml", "--data", records.name, "--runs", str(tmp_path / "runs"), "--yes"])
    assert "next: remora train 'my spec.yaml'" in capsys.readouterr().out
    assert "#     remora train 'my spec.yaml'\n" in (tmp_path / "my spec.yaml").read_text()
    given = InitOptions(out=Path("a.yaml"), runs=tmp_path)
    assert init._next(given, wish(llm="phi-2", device=catalog.device("l4")))[1] == "remora plan a.yaml --gpu l4"
