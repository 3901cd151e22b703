"""Text encoders, decoders and both, of `transformers` from small configurations."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from networks.hub import build

WORDS = 96
LENGTH = 12
S: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "vocab_size": WORDS, "max_position_embeddings": 64, "pad_token_id": 0, "num_labels": 3,
}  # fmt: skip
D: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "vocab_size": WORDS, "max_position_embeddings": 64, "use_cache": False, "pad_token_id": 0,
}  # fmt: skip
GQA: dict[str, Any] = {**D, "num_key_value_heads": 2}
EXPERTS: dict[str, Any] = {
    **GQA, "num_experts_per_tok": 2, "experts_implementation": "batched_mm",
}  # fmt: skip
BART: dict[str, Any] = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64,
    "vocab_size": WORDS, "max_position_embeddings": 64, "use_cache": False, "pad_token_id": 0,
}  # fmt: skip
T5: dict[str, Any] = {
    "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 4,
    "vocab_size": WORDS, "use_cache": False, "pad_token_id": 0,
}  # fmt: skip
Row = tuple[Any, tuple[str, ...], Any]


def words(length: int = LENGTH, count: int = WORDS) -> Tensor:
    """Numbers of random words."""
    return torch.randint(4, count, (1, length))


def _one(length: int = LENGTH) -> dict[str, Tensor]:
    return {"input_ids": words(length)}


def _masked(length: int = LENGTH) -> dict[str, Tensor]:
    mask = torch.ones(1, length, dtype=torch.long)
    mask[:, -2:] = 0
    return {"input_ids": words(length), "attention_mask": mask}


def _two() -> dict[str, Tensor]:
    return {"input_ids": words(), "decoder_input_ids": words(8)}


def _long() -> dict[str, Tensor]:
    return {**_two(), "attention_mask": torch.ones(1, LENGTH, dtype=torch.long)}


def _boxes() -> dict[str, Tensor]:
    return {"input_ids": words(), "bbox": torch.randint(0, 32, (1, LENGTH, 4)).sort(-1).values}


def _row(kind: str, config: str, *heads: str, example: Any = _one, **options: Any) -> Row:
    return partial(build, kind, config, **options), heads, example


def _classes(family: str, *heads: str, example: Any = _one, **options: Any) -> Row:
    kind, config = f"{family}ForSequenceClassification", f"{family}Config"
    return _row(kind, config, *(heads or ("classifier",)), example=example, **options)


def _causal(family: str, head: str = "lm_head", **options: Any) -> Row:
    return _row(f"{family}ForCausalLM", f"{family}Config", head, **options)


ENCODERS: dict[str, Row] = {
    "bert": _classes("Bert", example=_masked, **S),
    "bert_masked_words": _row(
        "BertForMaskedLM", "BertConfig", "cls.predictions.decoder", **S,
    ),
    "roberta": _classes("Roberta", "classifier.out_proj", **S),
    "roberta_prelayernorm": _classes("RobertaPreLayerNorm", "classifier.out_proj", **S),
    "camembert": _classes("Camembert", "classifier.out_proj", **S),
    "xlm_roberta": _classes("XLMRoberta", "classifier.out_proj", **S),
    "xlm_roberta_xl": _classes("XLMRobertaXL", "classifier.out_proj", **S),
    "distilbert": _classes(
        "DistilBert", vocab_size=WORDS, dim=32, n_layers=2, n_heads=4, hidden_dim=64,
        max_position_embeddings=64, num_labels=3,
    ),
    "albert": _classes("Albert", **S, embedding_size=16),
    "electra": _classes("Electra", "classifier.out_proj", **S, embedding_size=16),
    "deberta": _classes(
        "Deberta", **S, relative_attention=True, pos_att_type=["c2p", "p2c"],
        max_relative_positions=8,
    ),
    "deberta_v2": _classes(
        "DebertaV2", **S, relative_attention=True, pos_att_type=["c2p", "p2c"],
        max_relative_positions=8, position_buckets=8, share_att_key=True, norm_rel_ebd="layer_norm",
    ),
    "mpnet": _classes("MPNet", "classifier.out_proj", **S),
    "mobilebert": _classes(
        "MobileBert", **S, embedding_size=16, intra_bottleneck_size=16, true_hidden_size=16,
    ),
    "squeezebert": _classes("SqueezeBert", **S, embedding_size=32),
    "fnet": _classes("FNet", **S),
    "funnel": _classes(
        "Funnel", "classifier.linear_out", vocab_size=WORDS, block_sizes=[1, 1], d_model=32,
        n_head=4, d_head=8, d_inner=64, num_decoder_layers=1, num_labels=3,
    ),
    "bigbird": _classes("BigBird", "classifier.out_proj", **S, attention_type="original_full"),
    "convbert": _classes(
        "ConvBert", "classifier.out_proj", **S, embedding_size=16, head_ratio=2,
        conv_kernel_size=3,
    ),
    "roformer": _classes("RoFormer", "classifier.out_proj", **S, embedding_size=32),
    "yoso": _classes("Yoso", "classifier.out_proj", **S, use_expectation=True),
    "layoutlm": _classes("LayoutLM", example=_boxes, **S, max_2d_position_embeddings=64),
    "lilt": _classes("Lilt", "classifier.out_proj", example=_boxes, **{**S, "hidden_size": 48},
                     max_2d_position_embeddings=64, channel_shrink_ratio=2),
    "modernbert": _classes("ModernBert", **S, global_attn_every_n_layers=2, local_attention=8),
    "megatron_bert": _classes("MegatronBert", **S),
    "rembert": _classes("RemBert", **S, input_embedding_size=16, output_embedding_size=32),
    "xlnet": _classes("XLNet", "logits_proj", vocab_size=WORDS, d_model=32, n_layer=2, n_head=4,
                      d_inner=64, num_labels=3, use_mems_eval=False),
    "splinter": _row("SplinterModel", "SplinterConfig", **S),
    "ernie": _classes("Ernie", **S),
    "esm": _classes("Esm", "classifier.out_proj", **S, position_embedding_type="rotary",
                    mask_token_id=2, emb_layer_norm_before=True),
    "ibert": _classes("IBert", "classifier.out_proj", **S),
    "luke": _row("LukeModel", "LukeConfig", **S, entity_vocab_size=8, entity_emb_size=16),
    "nomic_bert": _classes("NomicBert", **S),
    "eurobert": _classes("EuroBert", **S),
    "xmod": _classes("Xmod", "classifier.out_proj", **S, languages=["en"],
                     default_language="en"),
}  # fmt: skip

DECODERS: dict[str, Row] = {
    "gpt2": _row("GPT2LMHeadModel", "GPT2Config", "lm_head", vocab_size=WORDS, n_embd=32,
                 n_layer=2, n_head=4, n_positions=64, use_cache=False),
    "openai_gpt": _row("OpenAIGPTLMHeadModel", "OpenAIGPTConfig", "lm_head", vocab_size=WORDS,
                       n_embd=32, n_layer=2, n_head=4, n_positions=64),
    "gpt_neo": _causal("GPTNeo", vocab_size=WORDS, hidden_size=32, num_layers=2, num_heads=4,
                       attention_types=[[["global", "local"], 1]], window_size=4,
                       max_position_embeddings=64, use_cache=False),
    "gptj": _causal("GPTJ", vocab_size=WORDS, n_embd=32, n_layer=2, n_head=4, rotary_dim=4,
                    n_positions=64, use_cache=False),
    "gpt_neox": _causal("GPTNeoX", **D),
    "gpt_bigcode": _causal("GPTBigCode", vocab_size=WORDS, n_embd=32, n_layer=2, n_head=4,
                           n_positions=64, use_cache=False),
    "codegen": _causal("CodeGen", vocab_size=WORDS, n_embd=32, n_layer=2, n_head=4, rotary_dim=4,
                       n_positions=64, use_cache=False),
    "opt": _causal("OPT", vocab_size=WORDS, hidden_size=32, num_hidden_layers=2, ffn_dim=64,
                   num_attention_heads=4, max_position_embeddings=64, word_embed_proj_dim=32,
                   use_cache=False),
    "bloom": _causal("Bloom", vocab_size=WORDS, hidden_size=32, n_layer=2, n_head=4,
                     use_cache=False),
    "biogpt": _causal("BioGpt", "output_projection", **D),
    "mpt": _causal("Mpt", vocab_size=WORDS, d_model=32, n_heads=4, n_layers=2, max_seq_len=64,
                   expansion_ratio=2, use_cache=False),
    "falcon": _causal("Falcon", vocab_size=WORDS, hidden_size=32, num_hidden_layers=2,
                      num_attention_heads=4, multi_query=True, use_cache=False),
    "llama": _causal("Llama", **GQA),
    "llama_classifier": _classes("Llama", "score", **GQA, num_labels=3),
    "mistral": _causal("Mistral", **GQA, sliding_window=6),
    "qwen2": _causal("Qwen2", **GQA),
    "qwen3": _causal("Qwen3", **GQA, head_dim=8),
    "gemma": _causal("Gemma", **{**D, "num_key_value_heads": 1}, head_dim=8),
    "gemma2": _causal("Gemma2", **GQA, head_dim=8, sliding_window=6),
    "gemma3": _row("Gemma3ForCausalLM", "Gemma3TextConfig", "lm_head", **GQA, head_dim=8,
                   sliding_window=6),
    "phi": _causal("Phi", **D),
    "phi3": _causal("Phi3", **GQA, bos_token_id=1, eos_token_id=2),
    "stablelm": _causal("StableLm", **GQA),
    "starcoder2": _causal("Starcoder2", **GQA),
    "olmo": _causal("Olmo", **GQA),
    "olmo2": _causal("Olmo2", **GQA),
    "cohere": _causal("Cohere", **GQA),
    "granite": _causal("Granite", **GQA),
    "glm": _causal("Glm", **GQA, head_dim=8),
    "nemotron": _causal("Nemotron", **GQA),
    "persimmon": _causal("Persimmon", **D),
    "smollm3": _causal("SmolLM3", **GQA),
    "helium": _causal("Helium", **GQA, head_dim=8),
    "diffllama": _causal("DiffLlama", **GQA),
    "mixtral": _causal("Mixtral", **EXPERTS, num_local_experts=4),
    "qwen2_moe": _causal("Qwen2Moe", **EXPERTS, num_experts=4, moe_intermediate_size=16,
                         shared_expert_intermediate_size=32),
    "olmoe": _causal("Olmoe", **EXPERTS, num_experts=4),
    "deepseek_v3": _causal(
        "DeepseekV3", **{**EXPERTS, "num_key_value_heads": 4}, n_routed_experts=4, n_group=2,
        topk_group=1, moe_intermediate_size=16, q_lora_rank=16, kv_lora_rank=16,
        qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=8, first_k_dense_replace=1,
    ),
    "mamba": _causal("Mamba", vocab_size=WORDS, hidden_size=32, num_hidden_layers=2, state_size=4,
                     use_cache=False),
    "mamba2": _causal("Mamba2", vocab_size=WORDS, hidden_size=32, num_hidden_layers=2,
                      state_size=4, num_heads=8, head_dim=8, n_groups=2, chunk_size=4,
                      use_cache=False),
    "rwkv": _causal("Rwkv", "head", vocab_size=WORDS, hidden_size=32, num_hidden_layers=2,
                    context_length=32, use_cache=False),
    "recurrent_gemma": _causal("RecurrentGemma", **{**D, "num_key_value_heads": 1}, lru_width=32,
                               attention_window_size=8),
    "bert_decoder": _row("BertLMHeadModel", "BertConfig", "cls.predictions.decoder", **S,
                         is_decoder=True, use_cache=False),
}  # fmt: skip

BOTH: dict[str, Row] = {
    "t5": _row("T5ForConditionalGeneration", "T5Config", "lm_head", example=_two, **T5),
    "t5_gated": _row("T5ForConditionalGeneration", "T5Config", "lm_head", example=_two, **T5,
                     feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    "mt5": _row("MT5ForConditionalGeneration", "MT5Config", "lm_head", example=_two, **T5),
    "umt5": _row("UMT5ForConditionalGeneration", "UMT5Config", "lm_head", example=_two, **T5),
    "long_t5": _row("LongT5ForConditionalGeneration", "LongT5Config", "lm_head", example=_long,
                    **T5, local_radius=4),
    "bart": _row("BartForConditionalGeneration", "BartConfig", "lm_head", example=_two, **BART),
    "mbart": _row("MBartForConditionalGeneration", "MBartConfig", "lm_head", example=_two, **BART),
    "pegasus": _row("PegasusForConditionalGeneration", "PegasusConfig", "lm_head", example=_two,
                    **BART),
    "marian": _row("MarianMTModel", "MarianConfig", "lm_head", example=_two,
                   **{**BART, "pad_token_id": 1}, decoder_start_token_id=1),
    "m2m100": _row("M2M100ForConditionalGeneration", "M2M100Config", "lm_head", example=_two,
                   **BART),
    "blenderbot": _row("BlenderbotForConditionalGeneration", "BlenderbotConfig", "lm_head",
                       example=_two, **BART),
    "plbart": _row("PLBartForConditionalGeneration", "PLBartConfig", "lm_head", example=_two,
                   **BART),
    "prophetnet": _row(
        "ProphetNetForConditionalGeneration", "ProphetNetConfig", "lm_head", example=_two,
        vocab_size=WORDS, hidden_size=32, encoder_ffn_dim=64, num_encoder_layers=1,
        num_encoder_attention_heads=4, decoder_ffn_dim=64, num_decoder_layers=1,
        num_decoder_attention_heads=4, max_position_embeddings=64, ngram=2, use_cache=False,
    ),
}  # fmt: skip
