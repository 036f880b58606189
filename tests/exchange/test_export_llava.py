"""An exported model is the stock class's: same prompt, same logits, same greedy tokens as Remora's own."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from transformers import AutoProcessor, LlavaForConditionalGeneration

from remora import catalog
from remora.data.conversation import Turn
from remora.errors import DataError
from remora.exchange.processor import with_image_token, write_processor
from remora.exchange.stock_llava import reason_against, write_llava
from remora.inference.exporting import PROBES, messages_of, stock_chat
from remora.reading.images import preprocess
from remora.reading.prompt import Prompter
from remora.token_ids import IMAGE
from support.exchange_fake import MLP2, ROWS, WORDS, encoder, tiny_vlm

EXACT = 1e-5  # fp32: the same matrices in the same order; what differs is only which kernel adds them up


def export(folder, vision, llm, model, tokenizer, template="vicuna", **changes):
    prompter = Prompter(catalog.template(template), tokenizer, 16)
    write_llava(
        folder,
        encoder=encoder(vision),
        vision_config=model.vision.module.config,
        vision_state=model.vision.module.state_dict(),
        connector_state=model.connector.state_dict(),
        llm=model.llm,
        tokenizer=tokenizer,
        chat=stock_chat(prompter)[0],
        stop=prompter.stop,
        **changes,
    )
    return prompter, LlavaForConditionalGeneration.from_pretrained(folder), AutoProcessor.from_pretrained(folder)


def pictures(count):
    return [Image.effect_mandelbrot((16, 16), (-2 + i / 3, -1.5, 1, 1.5), 20).convert("RGB") for i in range(count)]


def ours(model, prompter, entry, turns, shown):
    """Remora's ids and logits of a conversation."""
    ids = torch.tensor([prompter.encode(turns).ids])
    pixels = torch.stack([preprocess(p, entry) for p in shown]) if shown else torch.zeros(0, 3, 16, 16)
    return ids, model.llm(inputs_embeds=model.embed(ids, pixels)).logits


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("vision", "llm"),
    [("clip", m) for m in ("llama", "phi3", "gpt_neox")]
    + [("siglip", m) for m in ("llama", "qwen2", "phi", "stablelm", "gemma")]
    + [("dinov2", "llama"), ("vit", "llama")],
)
@torch.no_grad()
def test_the_stock_class_gives_our_logits_and_tokens(tmp_path, vision, llm):
    model, tokenizer = tiny_vlm(vision, llm)
    entry = encoder(vision)
    assert reason_against(entry, MLP2, model.llm) is None
    prompter, stock, processor = export(tmp_path / "out", vision, llm, model, tokenizer)
    picture = stock.config.image_token_index
    rows = stock.get_input_embeddings().weight.shape[0]
    ours_rows = ROWS[llm]
    assert picture < rows and (rows == ours_rows if picture < ours_rows else rows % 64 == 0)
    for turns in PROBES:
        shown = pictures(sum(t.images for t in turns))
        ids, logits = ours(model, prompter, entry, turns, shown)
        chat = processor.apply_chat_template(messages_of(turns), add_generation_prompt=True)
        inputs = processor(text=chat, images=shown, return_tensors="pt", add_special_tokens=False)
        assert torch.equal(inputs["input_ids"], ids.masked_fill(ids == IMAGE, picture))
        said = stock(**inputs).logits
        torch.testing.assert_close(said[..., :ours_rows], logits, rtol=EXACT, atol=EXACT)
        assert bool((said[..., ours_rows:] < said.max(dim=-1, keepdim=True).values).all())

        pixels = torch.stack([preprocess(p, entry) for p in shown])
        expected = model.llm.generate(
            inputs_embeds=model.embed(ids, pixels), max_new_tokens=8, do_sample=False, pad_token_id=1, eos_token_id=0
        )
        got = stock.generate(**inputs, max_new_tokens=8)[:, ids.shape[1] :]
        assert got.tolist() == expected.tolist()


@torch.no_grad()
def test_the_picture_matters(tmp_path):
    """The outputs that the test above compares depend on the picture."""
    model, tokenizer = tiny_vlm("siglip", "llama")
    prompter = Prompter(catalog.template("vicuna"), tokenizer, 16)
    a, b = (ours(model, prompter, encoder("siglip"), PROBES[0], [p])[1][0, -1] for p in pictures(2))
    assert float((a - b).abs().max()) > 0.1


def test_names_and_facts_that_other_engines_look_for(tmp_path):
    model, tokenizer = tiny_vlm("siglip", "qwen2")
    export(tmp_path / "out", "siglip", "qwen2", model, tokenizer)
    with safe_open(tmp_path / "out/model.safetensors", "pt") as f:
        names = set(f.keys())
    assert {n.split(".")[0] for n in names} == {"language_model", "multi_modal_projector", "vision_tower"}
    assert all(n.startswith("vision_tower.vision_model.") for n in names if n.startswith("vision_tower"))
    assert not any(".layers.2." in n or ".head." in n for n in names if n.startswith("vision_tower"))
    assert "language_model.lm_head.weight" not in names, "a tied head is stored once"
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["vision_feature_layer"] == -1 and config["vision_config"]["num_hidden_layers"] == 2
    assert config["vision_config"]["vision_use_head"] is False
    processor = json.loads((tmp_path / "out/preprocessor_config.json").read_text())
    assert processor["crop_size"] == {"height": 16, "width": 16} and processor["do_center_crop"] is False
    generation = json.loads((tmp_path / "out/generation_config.json").read_text())
    assert generation["eos_token_id"] == tokenizer.eos_token_id


@torch.no_grad()
def test_a_new_token_never_wins():
    """Its logit is the mean of all: with a head that gives only negative logits, a row of zeros would win."""
    from remora.exchange.stock_llava import _language_state

    model, _ = tiny_vlm("clip", "llama")
    hidden = torch.randn(50, 32)
    model.llm.lm_head.weight.copy_(-model.llm.lm_head.weight.abs())
    head = _language_state(model.llm, 384)["lm_head.weight"]
    logits = hidden.abs() @ head.T
    assert bool((logits[:, :340].max(dim=-1).values < 0).all()), "zero would win here"
    assert bool((logits.argmax(dim=-1) < 340).all())
    assert bool((torch.softmax(logits, -1)[:, 340:] <= 1 / 340).all())


def test_pictures_are_prepared_as_ours(tmp_path):
    """Odd sizes: the shorter side and a centre crop (CLIP), both sides (SigLIP)."""
    for vision in ("siglip", "clip"):
        model, tokenizer = tiny_vlm(vision, "llama")
        _, _, processor = export(tmp_path / vision, vision, "llama", model, tokenizer)
        for size in ((40, 17), (16, 33), (16, 16), (21, 50)):
            image = Image.effect_noise(size, 90).convert("RGB")
            theirs = processor.image_processor(image, return_tensors="pt")["pixel_values"][0]
            torch.testing.assert_close(theirs, preprocess(image, encoder(vision)), rtol=1e-5, atol=1e-5)


def test_padded_pictures_have_the_stock_classes_padding(tmp_path):
    model, tokenizer = tiny_vlm("clip", "llama")
    _, _, processor = export(tmp_path / "out", "clip", "llama", model, tokenizer, aspect="pad")
    white = Image.new("RGB", (32, 8), "white")
    pixels = processor.image_processor(white, return_tensors="pt")["pixel_values"][0]
    assert pixels.shape == (3, 16, 16)
    assert float(pixels[:, 0].abs().max()) < 0.02, "above is the mean colour: zero after normalisation"
    assert float(pixels[:, 8].min()) > 1.5, "the middle is the picture"


@pytest.mark.parametrize("template", sorted(set(catalog.entries("templates")) - {"tokenizer"}))
def test_every_template_renders_as_ours(template):
    tokenizer = tiny_vlm("clip", "llama")[1]
    tokenizer.add_special_tokens(
        {"additional_special_tokens": list(catalog.template(template).tokens), "bos_token": "<s>"}
    )
    assert stock_chat(Prompter(catalog.template(template), tokenizer, 16))[1] is None


OWN = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def test_a_tokenizers_own_template_takes_pictures():
    tokenizer = tiny_vlm("clip", "llama")[1]
    tokenizer.chat_template = OWN
    prompter = Prompter(catalog.template("tokenizer"), tokenizer, 16)
    chat, reason = stock_chat(prompter)
    assert reason is None and chat.endswith(OWN)
    tokenizer.chat_template = OWN + " {{ messages | length }}"
    assert stock_chat(Prompter(catalog.template("tokenizer"), tokenizer, 16))[1] is None, "any template, not this one"


def sentencepiece(scheme, bos=False):
    """A tokenizer that marks words as SentencePiece does, with special tokens that eat the space after them (Phi-3)."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers, processors, trainers
    from tokenizers.models import BPE
    from transformers import AddedToken, PreTrainedTokenizerFast

    raw = Tokenizer(BPE(unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=True)
    raw.decoder = decoders.Metaspace(prepend_scheme=scheme)
    specials = ["<unk>", "<s>", "</s>"]
    alphabet = [chr(i) for i in range(33, 127)] + ["\n", "\t"]
    raw.train_from_iterator(WORDS * 3, trainers.BpeTrainer(special_tokens=specials, initial_alphabet=alphabet))
    if bos:
        raw.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    for word in ("<|im_start|>", "<|im_end|>"):
        tokenizer.add_tokens([AddedToken(word, special=True, rstrip=True, normalized=False)], special_tokens=True)
    return tokenizer


@pytest.mark.parametrize("template", ["chatml", "vicuna", "llama-2"])
@pytest.mark.parametrize("scheme", ["first", "always", "never"])
def test_sentencepiece_reads_a_whole_text_as_its_pieces(tmp_path, scheme, template):
    """Whether a word gets a leading space depends on what precedes it; our prompter ignores a picture there."""
    tokenizer = sentencepiece(scheme, bos=True)
    prompter = Prompter(catalog.template(template), tokenizer, 16)
    chat, reason = stock_chat(prompter)
    assert reason is None, reason
    processor_of(tmp_path, tokenizer, chat)
    processor = AutoProcessor.from_pretrained(tmp_path)
    for turns in PROBES:
        shown = pictures(sum(t.images for t in turns))
        text = processor.apply_chat_template(messages_of(turns), add_generation_prompt=True)
        got = processor(text=text, images=shown, add_special_tokens=False)["input_ids"][0]
        assert got == [processor.image_token_id if i == IMAGE else i for i in prompter.encode(turns).ids]


def processor_of(folder, tokenizer, chat):
    write_processor(with_image_token(tokenizer), chat, encoder("clip"), 4, "square", folder)


@pytest.mark.parametrize("picture_in_message", [False, True])
def test_transformers_own_chat_call_gives_our_ids(tmp_path, picture_in_message):
    """apply_chat_template with tokenize=True: it decides itself whether the tokenizer adds a BOS."""
    tokenizer = sentencepiece("first", bos=True)
    prompter = Prompter(catalog.template("vicuna"), tokenizer, 16)
    processor_of(tmp_path, tokenizer, stock_chat(prompter)[0])
    processor = AutoProcessor.from_pretrained(tmp_path)
    turns = [Turn("user", "What?", int(picture_in_message))]
    messages = messages_of(turns)
    if picture_in_message:
        messages[0]["content"][0]["image"] = pictures(1)[0]
    got = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True)
    expected = [processor.image_token_id if i == IMAGE else i for i in prompter.encode(turns).ids]
    assert list(got["input_ids"][0]) == expected


def test_a_users_words_make_no_picture(tmp_path):
    model, tokenizer = tiny_vlm("clip", "llama")
    _, _, processor = export(tmp_path / "out", "clip", "llama", model, tokenizer)
    said = messages_of([Turn("user", "What does <image> mean?", 1)])
    text = processor.apply_chat_template(said, add_generation_prompt=True)
    assert processor(text=text, images=pictures(1))["input_ids"][0].count(processor.image_token_id) == 16


@torch.no_grad()
def test_what_has_no_stock_layout_is_refused_with_a_reason():
    from transformers import Gemma2Config, Gemma2ForCausalLM, GPT2Config, GPT2LMHeadModel

    model, _ = tiny_vlm("clip", "phi")
    clip = encoder("clip")
    assert reason_against(clip, MLP2, model.llm) is None
    model.llm.lm_head.bias[7] = 0.5
    assert "has a bias" in reason_against(clip, MLP2, model.llm)
    llama = tiny_vlm("clip", "llama")[0].llm
    assert "scales" in reason_against(encoder("clip", scales=(16, 32)), MLP2, llama)
    assert reason_against(encoder("clip", layer=-1), MLP2, llama) is None
    assert "5 tokens before" in reason_against(clip.model_copy(update={"prefix": 5}), MLP2, llama)
    larger = encoder("clip", image_size=32, tokens=64)
    assert "reads 32 px, and llava does not interpolate" in reason_against(larger, MLP2, llama)
    linear = MLP2.model_copy(update={"depth": 1})
    assert "2-layer mlp" in reason_against(clip, linear, llama)
    assert "not a class of transformers" in reason_against(catalog.vision("efficientnet-lite0"), MLP2, llama)
    small = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 16}
    capped = Gemma2ForCausalLM(
        Gemma2Config(**small, intermediate_size=32, num_key_value_heads=1, final_logit_softcapping=0.05)
    )
    assert "a scale or a cap" in reason_against(clip, MLP2, capped.eval())
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=1, n_head=2)).eval()
    assert "ties its head" in reason_against(clip, MLP2, gpt2)


def test_parts_of_another_model_are_found_before_anything_is_written(tmp_path):
    model, tokenizer = tiny_vlm("clip", "llama")
    model.vision.module.config.hidden_size = 32
    with pytest.raises(DataError, match=r"size mismatch|do not fit"):
        export(tmp_path / "out", "clip", "llama", model, tokenizer)
    assert not (tmp_path / "out").exists()
