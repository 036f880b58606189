"""Write the stock `llava` layout, which transformers' `LlavaForConditionalGeneration` and vLLM load.

It has two linear layers with a GELU between a transformers vision tower and a language model whose head is one matrix.
Other models are refused here with a reason, and exported in Remora's own layout instead.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, cast

import torch
from torch import Tensor, nn
from transformers import (
    AutoModel,
    GenerationConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from remora.catalog import Connector, Vision
from remora.errors import DataError
from remora.exchange.processor import IMAGE_TOKEN, with_image_token, write_processor
from remora.exchange.tower import cut_config, cut_state
from remora.files import publishing

PREFIXED = ("clip_vision_model", "siglip_vision_model")
"""Towers whose tensors are published below `vision_model.`, where vLLM's llava class expects them."""


def reason_against(encoder: Vision, connector: Connector, llm: PreTrainedModel) -> str | None:
    """Why this composition cannot have the stock llava layout, in one clause; None if it can."""
    if encoder.loader != "transformers":
        return f"the vision encoder ({encoder.short}) is not a class of transformers"
    if encoder.scales:
        return f"the vision encoder reads {len(encoder.scales)} scales, llava reads one"
    if encoder.interpolated:
        return f"the vision encoder reads {encoder.image_size} px, and llava does not interpolate its positions"
    if encoder.prefix > 1:
        return f"{encoder.prefix} tokens before the grid are dropped, llava drops one or none"
    if (connector.kind, connector.depth) != ("mlp", 2):
        # One linear layer plus an identity would be equivalent, but vLLM has no `linear` activation between them.
        return f"the connector is {connector.kind} of depth {connector.depth}, llava's is a 2-layer mlp with GELU"
    return _reason_against_head(llm)


def _tables(llm: PreTrainedModel) -> tuple[nn.Embedding, nn.Linear]:
    """The token embeddings and the head, which share their weight if tied."""
    return cast(nn.Embedding, llm.get_input_embeddings()), cast(nn.Linear, llm.get_output_embeddings())


@torch.no_grad()
def _reason_against_head(llm: PreTrainedModel) -> str | None:
    """Why the head is not one matrix over the last hidden states, as in llava. It is tried, because a class may scale
    or cap its logits."""
    name = type(llm).__name__
    embeddings, head = _tables(llm)
    bias = getattr(head, "bias", None)
    if bias is not None and bool(bias.any()):
        return f"the head of {name} has a bias, llava's has none"
    if head.weight is embeddings.weight and getattr(llm.base_model, "embed_tokens", None) is not embeddings:
        return f"{name} ties its head to embeddings that llava does not look for"
    generator = torch.Generator().manual_seed(0)
    some = torch.randint(embeddings.num_embeddings, (1, 8), generator=generator)
    hidden = llm.base_model(input_ids=some, use_cache=False).last_hidden_state
    plain, said = hidden @ head.weight.T, llm(input_ids=some, use_cache=False).logits
    if not torch.allclose(plain, said, rtol=1e-4, atol=1e-5 * float(plain.abs().max())):
        return f"{name} does more to its logits than one matrix (a scale or a cap), llava does not"
    try:
        with torch.device("meta"):
            backbone = AutoModel.from_config(llm.config)
    except (AttributeError, KeyError, ValueError) as e:
        return f"transformers builds no backbone from the config of {name} ({e})"
    if type(backbone) is not type(llm.base_model):
        return f"transformers builds {type(backbone).__name__} from the config of {name}"
    return None


def write_llava(
    folder: Path,
    *,
    encoder: Vision,
    vision_config: PretrainedConfig,
    vision_state: Mapping[str, Tensor],
    connector_state: Mapping[str, Tensor],
    llm: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    chat: str,
    stop: str,
    llm_hub: str = "",
    aspect: Literal["square", "pad"] = "square",
    papers: Mapping[str, str] | None = None,
) -> None:
    """Publish a stock llava folder: config, weights, tokenizer, processor with chat template, generation config; and
    `papers`, texts by their files' names.

    vision_state has the tower by the names of its transformers class (blocks after the used one may be missing),
    connector_state is an `nn.Sequential`'s `{0,2}.{weight,bias}`, `chat` is the chat template (see
    `remora.exchange.processor`), `stop` the token that ends an answer, `llm_hub` the language
    model's hub id.
    Weights keep their dtype, and the logits of existing tokens stay the same.

    Raises:
        DataError: a tensor is missing or has another shape.
    """
    tokenizer = with_image_token(tokenizer)
    image_token = cast(int, tokenizer.convert_tokens_to_ids(IMAGE_TOKEN))
    # The tower is cut at the used block, so `vision_feature_layer` is -1: transformers 5 and vLLM both return a CLIP or
    # SigLIP tower's last hidden state before the final norm, and no engine loads or runs unused blocks.
    vision = cut_config(vision_config, encoder.blocks_read)
    embeddings, head = _tables(llm)
    rows = embeddings.num_embeddings
    if image_token >= rows:
        rows = -(-(image_token + 1) // 64) * 64  # a multiple of 64, which tensor-parallel engines and GPUs want
    text = copy.deepcopy(llm.config)
    # The source of a part, as in llava-hf's configs; never a folder of this machine.
    vision._name_or_path, text._name_or_path = encoder.hub or "", llm_hub
    text.vocab_size = rows
    text.tie_word_embeddings = head.weight is embeddings.weight
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=image_token,
        image_seq_length=encoder.tokens,
        projector_hidden_act="gelu",
        vision_feature_select_strategy="default" if encoder.prefix else "full",
        vision_feature_layer=-1,
        tie_word_embeddings=text.tie_word_embeddings,
    )
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    state = {f"model.vision_tower.{k}": v for k, v in cut_state(vision, vision_state).items()}
    for ours, theirs in (("0", "linear_1"), ("2", "linear_2")):
        for kind in ("weight", "bias"):
            state[f"model.multi_modal_projector.{theirs}.{kind}"] = connector_state[f"{ours}.{kind}"]
    state |= _language_state(llm, rows)
    _assign(model, state)
    if vision.model_type in PREFIXED:
        state = {k.replace("model.vision_tower.", "model.vision_tower.vision_model."): v for k, v in state.items()}
    stop_id = tokenizer.convert_tokens_to_ids(stop)
    model.generation_config = GenerationConfig(
        do_sample=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=stop_id,
        pad_token_id=stop_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
    )
    with publishing(folder) as tmp:
        model.save_pretrained(tmp, state_dict={k: v.contiguous() for k, v in state.items()})
        write_processor(tokenizer, chat, encoder, vision.patch_size, aspect, tmp)
        for name, paper in (papers or {}).items():
            (tmp / name).write_text(paper)


def _language_state(llm: PreTrainedModel, rows: int) -> dict[str, Tensor]:
    """The language model by llava's names, with its vocabulary extended to `rows`.

    New rows are the mean of all rows. Their logit is then the mean of all logits: never above the largest, so greedy
    decoding never picks them, and by convexity of exp their probability is at most 1 / vocabulary.
    """
    embeddings, head = _tables(llm)
    grown: dict[int, Tensor] = {}
    for table in (embeddings.weight.detach(), head.weight.detach()):
        new = table.double().mean(dim=0).to(table.dtype).expand(rows - len(table), -1)
        grown[table.data_ptr()] = torch.cat([table, new]) if len(new) else table
    state = {f"model.language_model.{k}": grown.get(v.data_ptr(), v) for k, v in llm.base_model.state_dict().items()}
    if head.weight is not embeddings.weight:
        state["lm_head.weight"] = grown[head.weight.data_ptr()]
    return state


def _assign(model: LlavaForConditionalGeneration, state: Mapping[str, Tensor]) -> None:
    """Assign tensors to a model on the meta device, so that names and shapes are checked before anything is written."""
    try:
        said = model.load_state_dict(dict(state), strict=False, assign=True)
    except RuntimeError as e:
        raise DataError(f"export: {str(e).splitlines()[-1].strip()}; the catalog entry is of another model") from None
    tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
    wrong = sorted((set(said.missing_keys) - tied) | set(said.unexpected_keys))
    if wrong:
        raise DataError(
            f"export: {len(wrong)} tensors do not fit a llava of this config, e.g. {', '.join(wrong[:3])}; "
            "the catalog entry is of another model"
        )
    model.tie_weights()
