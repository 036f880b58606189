"""Embedding a dataset: the encoder's values, parts that are made only once, and unreadable pictures."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch
from PIL import Image

from remora import catalog
from remora.condense import embedding
from remora.condense.embedding import EmbeddingJob, embed_here, identity, load_encoder
from remora.condense.source import picture, words
from remora.condense.vectors import Vectors
from remora.data.conversation import Sample, Turn
from remora.data.index import Dataset
from remora.data.mixture import open_whole
from remora.errors import DataError, SpecError
from remora.spec import MixtureEntry
from remora.spec.condensation import Encoder
from support.dual_encoders import SIDE, write_encoder, write_pictures


@pytest.fixture
def job(tmp_path):
    """Eleven records in parts of four and batches of three; the second part's pictures are torn, missing, none."""
    write_encoder(tmp_path / "clip")
    path = write_pictures(tmp_path, 11, {})
    (tmp_path / "images" / "4.png").write_bytes(b"\x89PNG but not for long")
    (tmp_path / "images" / "5.png").unlink()
    records = json.loads(path.read_text())
    del records[6]["image"]
    records[6]["conversations"][0]["value"] = "What is it?"
    path.write_text(json.dumps(records))
    entry = MixtureEntry(path=str(path), images=str(tmp_path / "images"))
    encoder = Encoder(model=str(tmp_path / "clip"), batch=3, part=4)
    return EmbeddingJob(open_whole(entry, tmp_path).folder, encoder, tmp_path / "out", 11)


def test_rows_are_the_encoders_and_the_unreadable_are_named(job, tmp_path):
    embed_here(job, job.missing(), threads=2, progress=(rows := []).append)
    assert rows == [4, 4, 3]
    images, texts = Vectors(job.files("images")), Vectors(job.files("texts"))
    everything = np.arange(11)
    loaded = load_encoder(job.encoder)
    embedder = embedding.Embedder(loaded.folder)
    samples = Dataset(job.index)
    for row in everything:
        if row in (4, 5, 6):
            assert not images.take(everything[row : row + 1]).any()
        else:
            alone = embedder.texts([words(samples[row])])
            assert np.allclose(texts.take(everything[row : row + 1]), alone, atol=1e-5)
            alone = embedder.images(embedding.preprocess(picture(samples[row]), loaded.preprocessing)[None])
            assert np.allclose(images.take(everything[row : row + 1]), alone, atol=1e-5)
    lost = list(job.left_out())
    assert [(line["row"], line["id"], line["kind"]) for line in lost] == [
        (4, f"{tmp_path}/train.json: record 4", "corrupt-image"),
        (5, f"{tmp_path}/train.json: record 5", "missing-image"),
        (6, "r6", "no-picture"),
    ]
    assert "4.png" in lost[0]["reason"] and "5.png is not there" in lost[1]["reason"]
    assert lost[2]["reason"] == "sample 'r6' has no picture"


def test_a_samples_text_is_what_its_answers_say():
    turns = (Turn("user", "What?", 1), Turn("assistant", "a cat"), Turn("user", "Where?"), Turn("assistant", "there"))
    assert words(Sample("1", turns, ())) == "a cat there"


def test_only_missing_and_torn_parts_are_made(job):
    assert job.missing() == [0, 4, 8]
    embed_here(job, [4], threads=1)
    assert job.missing() == [0, 8]
    embed_here(job, job.missing(), threads=1)
    before = [f.read_bytes() for f in job.files("images")]
    job.files("images")[1].write_bytes(before[1][:-4])
    assert job.missing() == [4]
    embed_here(job, job.missing(), threads=3)
    assert job.missing() == [] and [f.read_bytes() for f in job.files("images")] == before


def test_what_embeddings_follow_from_is_their_identity(job, tmp_path):
    loaded = load_encoder(job.encoder)
    entry = MixtureEntry(path=str(tmp_path / "train.json"), images=str(tmp_path / "images"))

    def now(encoder=job.encoder):
        return identity(open_whole(entry, tmp_path), encoder, loaded)

    first = now()
    assert now() == first
    assert now(Encoder(model=job.encoder.model, batch=4, part=4)) != first
    Image.new("RGB", (50, 50)).save(tmp_path / "images" / "5.png")
    restored = now()
    assert restored != first
    os.utime(tmp_path / "images" / "5.png", ns=(1, 1))  # touched, not changed
    assert now() == restored
    write_encoder(tmp_path / "other", "siglip")
    assert load_encoder(Encoder(model=str(tmp_path / "other"))).identity != loaded.identity


def test_pixels_are_made_as_the_catalog_or_the_folder_says(tmp_path, monkeypatch):
    write_encoder(tmp_path / "clip")
    write_encoder(tmp_path / "siglip", "siglip")
    clip, siglip = (load_encoder(Encoder(model=str(tmp_path / kind))).preprocessing for kind in ("clip", "siglip"))
    assert (clip.fit, clip.input_size, clip.mean) == ("crop", SIDE, (0.5, 0.5, 0.5))
    assert (siglip.fit, siglip.input_size) == ("stretch", SIDE)
    wide = Image.new("RGB", (90, 40))
    assert embedding.preprocess(wide, clip).shape == embedding.preprocess(wide, siglip).shape == (3, SIDE, SIDE)
    config = json.loads((tmp_path / "siglip" / "config.json").read_text())
    short = config | {
        "vision_config": {"model_type": "siglip_vision_model"}
    }  # as SigLIP's own: the rest is the default
    (tmp_path / "siglip" / "config.json").write_text(json.dumps(short))
    assert load_encoder(Encoder(model=str(tmp_path / "siglip"))).preprocessing.width == 768
    monkeypatch.setattr(embedding, "snapshot", lambda hub, revision: tmp_path / "clip")
    known = load_encoder(Encoder(model="clip-l-224"))
    assert known.preprocessing == catalog.vision("clip-l-224")
    assert known.identity["files"] == catalog.vision("clip-l-224").revision


@pytest.mark.parametrize("name", ["dinov2-l-224", "efficientnet-lite0", "eva02-clip-l-336", "siglip-so400m-384-s2"])
def test_an_encoder_without_texts_is_refused(name):
    with pytest.raises(SpecError, match=f"encoder '{name}' has no text tower; known: clip-l-336, clip-l"):
        load_encoder(Encoder(model=name))


def test_a_folder_that_describes_no_encoder(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(DataError, match="do not describe a dual encoder"):
        load_encoder(Encoder(model=str(tmp_path)))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"image_mean": ["a", "b", "c"]}, r"as an entry: mean.0: must be a number \(found 'a'\)"),
        ({"image_mean": [0.5]}, "mean.1.* is missing"),
        ({"image_std": None}, "as an entry: std: must be a list"),
        ({"resample": 7}, "7 is missing or not known"),
        ({"crop_size": "wide"}, ""),
        ({"crop_size": {"height": -8}}, "must be"),
    ],
)
def test_a_folder_that_describes_it_wrongly_is_one_line_in_plain_words(tmp_path, change, why):
    config = {"model_type": "clip", "vision_config": {"patch_size": 8, "image_size": 32}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    pixels = {"crop_size": 32, "size": 32, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(pixels | change))
    with pytest.raises(DataError, match=f"do not describe a dual encoder .*{why}") as caught:
        load_encoder(Encoder(model=str(tmp_path)))
    said = str(caught.value)
    assert "\n" not in said and not any(word in said for word in ("validation", "Input", "pydantic", "type="))


def test_near_copies_are_near(job, tmp_path):
    """The basis of deduplication, even with random weights: a little noise hardly changes a picture's direction."""
    write_pictures(tmp_path / "more", 6, {3: 0, 4: 1})
    entry = MixtureEntry(path=str(tmp_path / "more" / "train.json"), images=str(tmp_path / "more" / "images"))
    other = EmbeddingJob(open_whole(entry, tmp_path).folder, job.encoder, tmp_path / "more" / "out", 6)
    embed_here(other, other.missing(), threads=1)
    x = Vectors(other.files("images")).take(np.arange(6))
    cosines = x @ x.T
    assert min(cosines[3, 0], cosines[4, 1]) > 0.99
    assert torch.tensor(cosines)[[0, 0, 1, 2], [1, 2, 2, 5]].max() < 0.97
