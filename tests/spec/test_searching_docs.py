"""Every snippet of docs/searching.md is a space once it is added to the page's first one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from remora.runs import read_survey
from remora.spec.space import Space

PAGE = (Path(__file__).parents[2] / "docs" / "searching.md").read_text()
FIRST, *MORE = re.findall(r"```yaml\n(.*?)```", PAGE.partition("\n## Writing a space")[2].partition("\n## ")[0], re.S)


@pytest.mark.parametrize("more", MORE, ids=lambda text: text.split(":")[0] + str(len(text)))
def test_a_snippet_adds_to_the_first_space(more, tmp_path):
    (tmp_path / "space.yaml").write_text(FIRST + more)
    whole = read_survey(tmp_path / "space.yaml")
    assert len(whole.variants) >= 4 and not whole.pruned
    if "smoke:" in more:
        assert len(read_survey(tmp_path / "space.yaml", smoke=True).variants) == 2


def test_every_key_of_a_space_is_on_the_page():
    assert [key for key in Space.model_fields if f"`{key}" not in PAGE and f"{key}:" not in PAGE] == []
