"""Published scores: every cell against the tables as they are printed, and one name from a model to its figures."""

from __future__ import annotations

import pytest

from remora import catalog
from remora.catalog import PAPERS
from remora.cli import main
from remora.errors import UnknownName

SCORES = catalog.entries("scores")
FIGURES = {figure for name, paper in PAPERS.items() for figure in (name, *paper.reported)}


def table(columns: str, rows: str) -> dict[str, dict[str, float]]:
    """A printed table: a name and its cells per line, - for a missing cell."""
    found = {}
    for line in rows.strip().splitlines():
        name, *cells = line.split()
        found[name] = {c: float(v) for c, v in zip(columns.split(), cells, strict=True) if v != "-"}
    return found


# TinyLLaVA, Table A1, all twelve.
A1 = table(
    "vqav2 gqa scienceqa textvqa mmvet pope llava-bench",
    """
    base-C-TL     74.0 58.1 60.2 45.8 20.6 85.9 55.8
    base-Sig-TL   75.8 58.6 60.2 49.1 24.1 87.1 59.0
    base-C-SLM    74.9 58.9 62.8 49.5 25.0 85.8 55.4
    base-Sig-SLM  78.1 61.1 62.8 54.1 29.5 86.9 59.8
    base-C-Phi    76.6 60.3 69.6 51.4 30.7 86.8 67.1
    base-Sig-Phi  79.2 61.3 69.9 55.6 32.1 87.1 67.9
    share-C-TL    75.2 59.4 58.8 48.1 25.1 85.9 55.6
    share-Sig-TL  76.9 60.3 60.1 51.7 25.8 86.1 60.8
    share-C-SLM   76.3 60.3 63.1 51.6 29.3 85.4 59.5
    share-Sig-SLM 78.9 61.9 64.7 56.4 32.6 86.5 66.4
    share-C-Phi   77.7 61.0 70.1 53.5 31.7 86.3 67.1
    share-Sig-Phi 79.9 62.0 69.1 59.1 32.0 86.4 75.8
    """,
)
# TinyLLaVABench's README, by the names that it has.
BENCH = table(
    "llava-bench mme mmbench mmvet scienceqa vqav2 gqa textvqa",
    """
    TinyLLaVA-3.1B 75.8 1464.9 66.9 32.0 69.1 79.9 62.0 59.1
    TinyLLaVA-2.0B 66.4 1433.8 63.3 32.6 64.7 78.9 61.9 56.4
    TinyLLaVA-1.5B 60.8 1276.5 55.2 25.8 60.3 76.9 60.3 51.7
    """,
)
FACTORY = table(
    "vqav2 gqa scienceqa textvqa mmvet pope mme mmmu",
    """
    OpenELM-450M-CLIP      69.5   52.1  50.6       40.4     20.0    83.6  1052.9  23.9
    OpenELM-450M-SigLIP    71.7   53.9  54.1       44.0     20.0    85.4  1118.8  24.0
    Qwen2-0.5B-SigLIP      72.3   55.8  60.1       45.2     19.5    86.6  1153.0  29.7
    Qwen2.5-0.5B-SigLIP    75.3   59.5  60.3       48.3     23.9    86.1  1253.0  33.3
    Qwen2.5-3B-SigLIP      79.4   62.5  74.1       58.3     34.8    87.4  1438.7  39.9
    TinyLlama-1.1B-CLIP    73.7   58.0  59.9       46.3     23.2    85.5  1284.6  27.9
    TinyLlama-1.1B-SigLIP  75.5   58.6  64.0       49.6     23.5    86.3  1256.5  28.3
    StableLM-2-1.6B-CLIP   75.9   59.5  64.6       50.5     27.3    86.1  1368.1  31.8
    StableLM-2-1.6B-SigLIP 78.2   60.7  66.7       56.0     29.4    86.3  1319.3  32.6
    Gemma-2B-SigLIP        78.4   61.6  64.4       53.6     26.9    86.4  1339.0  31.7
    Phi-2-CLIP             76.8   59.4  71.2       53.4     31.7    86.8  1448.6  36.3
    Phi-2-SigLIP           79.2   61.6  71.9       57.4     35.0    87.2  1462.4  38.2
    Phi-2-SigLIP-LoRA      77.6   59.7  71.6       53.8     33.3    87.9  1413.2  35.6
    Phi-2-SigLIP-share     80.1   62.1  73.0       60.3     37.5    87.2  1466.4  38.4
    """,
)
# Bunny's README; the paper's Tables 1 and 2 hold the first six and the eighth without the column SEED-IMG.
BUNNY = table(
    "mme mme.cognition mmbench.test mmbench mmbench-cn.test mmbench-cn seed seed.image mmmu mmmu.test "
    "vqav2 gqa scienceqa pope",
    """
    Bunny-phi-1.5-eva       1213.7 278.9 60.9 56.8 -    -    56.4 64.1 30.0 28.4 76.5 60.4 58.2 86.1
    Bunny-stablelm-2-eva    1301.0 235.0 58.4 56.4 -    -    55.3 62.8 29.8 29.4 74.6 56.7 60.0 84.8
    Bunny-phi-2-eva         1421.0 285.4 68.6 67.4 -    -    62.2 70.2 35.9 32.6 78.9 62.3 69.1 87.1
    Bunny-phi-1.5-siglip    1230.0 237.5 61.2 59.7 -    -    57.7 65.3 30.0 29.1 78.0 61.1 61.3 85.8
    Bunny-stablelm-2-siglip 1366.8 236.1 65.1 62.8 -    -    58.8 67.5 29.9 29.8 78.9 60.9 61.1 85.9
    Bunny-v1.0-2B-zh        1300.8 254.3 59.8 59.1 59.5 58.5 55.4 62.3 34.4 30.4 76.6 59.6 64.6 85.8
    Bunny-v1.0-3B-zh        1410.4 281.4 66.1 65.5 64.9 63.6 59.6 67.3 35.4 32.4 78.6 60.8 68.7 86.5
    Bunny-phi-2-siglip      1488.8 289.3 69.2 68.6 -    -    62.5 70.7 38.2 33.0 79.8 62.5 70.9 86.8
    Bunny-v1.0-4B           1495.2 338.9 74.0 73.5 -    -    64.5 72.1 40.1 39.1 81.5 63.5 75.2 86.7
    Bunny-v1.1-4B           1581.5 361.1 75.7 74.2 66.5 64.5 64.9 72.5 41.4 38.4 82.1 63.2 78.3 87.2
    Bunny-Llama-3-8B-V      1588.9 321.1 77.2 76.7 73.8 72.3 65.9 73.3 42.8 39.0 82.6 64.8 80.4 86.9
    Bunny-1.1-Llama-3-8B-V  1644.1 367.5 78.1 77.2 74.3 74.8 66.2 73.5 43.3 39.0 82.9 64.0 79.9 87.2
    """,
)
MIPHA = table(
    "vqav2 gqa vizwiz scienceqa textvqa pope mme mme.cognition mmbench mmbench-cn seed.image mmvet",
    """
    LLaVA-Phi-3B 71.4 -    -    68.4 48.6 85.0 1335.1 -     59.8 -    -    28.9
    Mipha-1.6B   77.5 62.7 -    58.3 45.6 86.9 1203.1 -     57.7 -    -    -
    Mipha-2.4B   79.5 63.3 -    65.3 52.4 86.6 1397.1 -     59.4 -    -    -
    Mipha-3B     81.3 63.9 47.5 70.9 56.6 86.7 1488.9 295.0 69.7 64.3 68.9 32.1
    """,
)
MOBILE = table(
    "gqa scienceqa textvqa pope mme mmbench",
    """
    MobileVLM-1.7B    56.1 57.3 41.5 84.5 1196.2 53.2
    MobileVLM-V2-1.7B 59.3 66.7 52.1 84.3 1302.8 57.7
    MobileVLM-3B      59.0 61.2 47.5 84.9 1288.9 59.6
    MobileVLM-V2-3B   61.1 70.0 57.5 84.7 1440.5 63.2
    MobileVLM-V2-7B   62.6 74.8 62.3 85.3 1560.7 69.2
    """,
)
ZOO = table(
    "vqav2 gqa vizwiz scienceqa textvqa pope mme mmbench mmbench-cn seed llava-bench mmvet",
    """
    LLaVA-1.5-7B       78.5 62.0 50.0 66.8 58.2 85.9 1510.7 64.3 58.3 58.6 65.4 31.1
    LLaVA-1.5-13B      80.0 63.3 53.6 71.6 61.3 85.9 1531.3 67.7 63.6 61.6 72.5 36.1
    LLaVA-1.5-7B-LoRA  79.1 63.0 47.8 68.4 58.2 86.4 1476.9 66.1 58.9 60.1 67.9 30.2
    LLaVA-1.5-13B-LoRA 80.0 63.3 58.9 71.2 60.2 86.7 1541.7 68.5 61.5 61.3 69.5 38.3
    """,
)
# What other papers print of LLaVA-1.5: Mipha and TinyLLaVA (Table 3) of the full models, Bunny (Table 1) of LoRA's.
QUOTED = {
    "LLaVA-1.5-7B": {"mmvet": 30.5, "llava-bench": 63.4, "mme.cognition": 316.1, "seed.image": 66.1},
    "LLaVA-1.5-13B": {"mmvet": 35.4, "mme.cognition": 295.4, "seed.image": 68.2},
    "LLaVA-1.5-7B-LoRA": {"mme.cognition": 267.9, "mmbench.test": 66.1, "mmmu": 34.4, "mmmu.test": 31.7},
    "LLaVA-1.5-13B-LoRA": {"mme.cognition": 300.4, "mmbench.test": 68.4, "mmmu": 40.0, "mmmu.test": 33.2},
}
MOE = table(
    "vqav2 gqa vizwiz scienceqa textvqa pope mme mmbench mmvet",
    """
    MoE-LLaVA-1.6B-4-Top2     76.7 60.3 36.2 62.6 50.1 85.7 1318.1 60.2 26.9
    MoE-LLaVA-1.8B-4-Top2     76.2 61.5 32.6 63.1 48.0 87.0 1291.6 59.6 25.3
    MoE-LLaVA-2.7B-4-Top2     77.6 61.4 43.9 68.5 51.4 86.3 1423.0 65.2 34.3
    MoE-LLaVA-1.6B-4-Top2-384 78.6 61.5 40.5 63.9 54.3 85.9 1335.7 63.3 32.3
    MoE-LLaVA-2.7B-4-Top2-384 79.9 62.6 43.7 70.3 57.0 85.7 1431.3 68.0 35.9
    """,
)
TABLES = [
    {f"TinyLLaVA-{n}": cells for n, cells in A1.items()},
    {"TinyLLaVA-share-C-Phi": {"mme": 1437.3, "mmbench": 68.3}},  # Table 3
    {"TinyLLaVA-share-Sig-Phi": {"mme": 1464.9, "mmbench": 66.9}},
    *({catalog_name: BENCH[old]} for old in BENCH for catalog_name in [old]),
    {f"TinyLLaVA-Factory-{n}": cells for n, cells in FACTORY.items()},
    BUNNY,
    MIPHA,
    MOBILE,
    ZOO,
    QUOTED,
    MOE,
    {"TinyLLaVA-v1": {"vqav2": 73.4, "gqa": 57.5, "scienceqa": 59.4}},
]


def printed() -> dict[str, set[tuple[str, float]]]:
    """Every cell of the tables, by the catalog's name of its model."""
    names = {also: name for name, entry in SCORES.items() for also in entry.also}
    found: dict[str, set[tuple[str, float]]] = {}
    for one in TABLES:
        for name, cells in one.items():
            found.setdefault(names.get(name, name), set()).update(cells.items())
    return found


@pytest.mark.parametrize("name", SCORES)
def test_every_cell_is_the_printed_one_and_none_is_left_out(name):
    entry = SCORES[name]
    held = {cell for report in (entry, *entry.others) for cell in report.scores.items()}
    assert held == printed()[name]


def test_every_model_of_the_tables_is_there():
    assert printed().keys() == SCORES.keys()


def test_where_sources_differ_both_are_kept_and_the_first_counts():
    assert {n: e.differing for n, e in SCORES.items() if e.differing} == {
        "TinyLLaVA-share-Sig-TL": {"scienceqa": (60.1, 60.3)},
        "LLaVA-1.5-7B": {"llava-bench": (65.4, 63.4), "mmvet": (31.1, 30.5)},
        "LLaVA-1.5-13B": {"mmvet": (36.1, 35.4)},
    }
    assert SCORES["TinyLLaVA-share-Sig-TL"].merged["scienceqa"] == 60.1
    assert SCORES["TinyLLaVA-share-Sig-TL"].merged["mme"] == 1276.5
    for entry in SCORES.values():
        assert entry.source and all(other.source for other in entry.others)


def test_every_figure_is_one_that_is_measured_or_that_a_server_gives():
    for name, entry in SCORES.items():
        assert entry.merged.keys() <= FIGURES, name


PEERS = {"LLaVA-Phi-3B", "TinyLLaVA-v1", *MOE, *(f"TinyLLaVA-Factory-OpenELM-450M-{v}" for v in ("CLIP", "SigLIP"))}
"""Models with scores that no shipped recipe or language model makes: mixtures of experts, OpenELM, older data."""


def test_a_published_model_has_one_name_for_its_parts_and_its_scores():
    assert set(catalog.entries("published")) == set(SCORES) - PEERS


def test_every_name_that_a_model_goes_by_finds_it():
    names = [n for name, entry in SCORES.items() for n in (name, *entry.also)]
    assert len(set(names)) == len(names)
    assert catalog.scores("TinyLLaVA-3.1B") is catalog.scores("TinyLLaVA-share-Sig-Phi")
    assert catalog.scores("Bunny-v1.0-3B") is catalog.scores("Bunny-phi-2-siglip")
    with pytest.raises(UnknownName, match=r"unknown model with scores 'Bunny-v1.0-3b'"):
        catalog.scores("Bunny-v1.0-3b")


def test_the_catalog_shows_all_cells_and_their_sources(capsys):
    main(["catalog", "scores"])
    said = capsys.readouterr().out
    assert all(name in said for name in SCORES)
    (line,) = (x for x in said.splitlines() if x.startswith("TinyLLaVA-share-Sig-TL"))
    assert "60.1 (60.3)" in line and "1276.5" in line
    main(["catalog", "scores", "TinyLLaVA-1.5B"])
    said = capsys.readouterr().out
    assert "Table A1" in said and "README at 2d2105f, line 95" in said and "60.3" in said
