"""Small random models of many architectures, each with a tokenizer of its own kind.

Nothing is trained and nothing is read: the tokenizers split texts into characters or bytes.
`build` writes one into a folder. A family is a configuration class, its arguments and the kind of
its tokenizer.
"""

from __future__ import annotations

import string
from pathlib import Path

LETTERS = [*string.ascii_lowercase, *string.digits, *".,!?'-"]
HEADS = {
    "qa": "AutoModelForQuestionAnswering",
    "text-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "feature-extraction": "AutoModel",
}
ENCODER = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 512,
    "initializer_range": 0.15,
}
ROBERTA = {**ENCODER, "max_position_embeddings": 514, "type_vocab_size": 1, "pad_token_id": 1}
DECODER = {**ENCODER, "num_key_value_heads": 2, "head_dim": 16, "pad_token_id": 0}
GPT2 = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512, "initializer_range": 0.15}
XLNET = {"d_model": 64, "n_layer": 2, "n_head": 4, "d_inner": 128, "initializer_range": 0.15}
T5 = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4}
RELATIVE = {
    "relative_attention": True,
    "pos_att_type": ["c2p", "p2c"],
    "position_biased_input": False,
    "type_vocab_size": 0,
    "pad_token_id": 0,
}
OPT = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "ffn_dim": 128,
    "word_embed_proj_dim": 64,
    "max_position_embeddings": 512,
}
BART = {
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "max_position_embeddings": 512,
}

FAMILIES = {  # name -> configuration class, arguments, kind of tokenizer
    "bert": ("BertConfig", ENCODER, "wordpiece"),
    "distilbert": (
        "DistilBertConfig",
        {"dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128},
        "wordpiece",
    ),
    "squeezebert": ("SqueezeBertConfig", {**ENCODER, "embedding_size": 64}, "wordpiece"),
    "convbert": ("ConvBertConfig", {**ENCODER, "embedding_size": 32}, "wordpiece"),
    "fnet": (
        "FNetConfig",
        {k: v for k, v in ENCODER.items() if k != "num_attention_heads"},
        "wordpiece",
    ),
    "roberta": ("RobertaConfig", ROBERTA, "bytes-cls"),
    "esm": (
        "EsmConfig",
        {**ROBERTA, "position_embedding_type": "rotary", "mask_token_id": 4},
        "bytes-cls",
    ),
    "gpt2": (
        "GPT2Config",
        {**GPT2, "pad_token_id": 0, "eos_token_id": 0, "bos_token_id": 0},
        "bytes",
    ),
    "llama": ("LlamaConfig", DECODER, "bytes"),
    "mistral": ("MistralConfig", DECODER, "bytes"),
    "qwen2": ("Qwen2Config", {k: v for k, v in DECODER.items() if k != "head_dim"}, "bytes"),
    "gemma": ("GemmaConfig", DECODER, "bytes"),
    "phi3": ("Phi3Config", {k: v for k, v in DECODER.items() if k != "head_dim"}, "bytes"),
    "gpt-neox": ("GPTNeoXConfig", {**ENCODER, "pad_token_id": 0}, "bytes"),
    "xlnet": ("XLNetConfig", {**XLNET, "pad_token_id": 0}, "left"),
    "t5": ("T5Config", {**T5, "decoder_start_token_id": 0, "eos_token_id": 2}, "ends"),
    "albert": ("AlbertConfig", {**ENCODER, "embedding_size": 32}, "wordpiece"),
    "electra": ("ElectraConfig", {**ENCODER, "embedding_size": 32}, "wordpiece"),
    "mpnet": ("MPNetConfig", {k: v for k, v in ROBERTA.items() if k[:4] != "type"}, "bytes-cls"),
    "deberta": ("DebertaConfig", {**ENCODER, **RELATIVE}, "bytes-cls"),
    "deberta-v2": (
        "DebertaV2Config",
        {**ENCODER, **RELATIVE, "position_buckets": 32, "norm_rel_ebd": "layer_norm"},
        "bytes-cls",
    ),
    "xlm-roberta": ("XLMRobertaConfig", ROBERTA, "bytes-cls"),
    "camembert": ("CamembertConfig", ROBERTA, "bytes-cls"),
    "ernie": ("ErnieConfig", ENCODER, "wordpiece"),
    "rembert": ("RemBertConfig", {**ENCODER, "input_embedding_size": 32}, "wordpiece"),
    "roformer": ("RoFormerConfig", {**ENCODER, "embedding_size": 64}, "wordpiece"),
    "megatron-bert": ("MegatronBertConfig", ENCODER, "wordpiece"),
    "layoutlm": ("LayoutLMConfig", ENCODER, "wordpiece"),
    "bigbird": ("BigBirdConfig", {**ENCODER, "block_size": 16, "pad_token_id": 0}, "wordpiece"),
    "opt": ("OPTConfig", {**OPT, "pad_token_id": 0}, "bytes"),
    "bart": ("BartConfig", {**BART, "eos_token_id": 2, "pad_token_id": 0}, "ends"),
}


def build(folder: Path, name: str, task: str, *, tokenizer=None, **settings) -> Path:
    """Write a model into `folder`. `settings` replace arguments of its configuration."""
    import torch
    import transformers

    config_class, arguments, kind = FAMILIES[name]
    tokenizer = tokenizer or make_tokenizer(kind)
    torch.manual_seed(0)
    values = {**arguments, "vocab_size": len(tokenizer), **settings}
    config = getattr(transformers, config_class)(**values)
    model = getattr(transformers, HEADS[task]).from_config(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_tokenizer(kind: str, **options):
    """A tokenizer without training: characters (`wordpiece`), or bytes.

    `bytes-cls` begins and ends a row, `ends` ends it, `left` is XLNet's: it ends a row with two
    tokens and pads on the left.
    """
    import transformers
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    if kind == "wordpiece":
        pieces = [*special, *LETTERS, *(f"##{letter}" for letter in LETTERS)]
        model = models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]")
        made = Tokenizer(model)
        made.normalizer = normalizers.BertNormalizer(lowercase=True)
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    else:
        pieces = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
        made = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, []))
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    templates = {
        "wordpiece": ("[CLS] $A [SEP]", "[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1"),
        "bytes-cls": ("[CLS] $A [SEP]", "[CLS] $A [SEP] [SEP] $B [SEP]"),
        "ends": ("$A [SEP]", "$A [SEP] $B [SEP]"),
        "left": ("$A:0 [SEP]:0 [CLS]:2", "$A:0 [SEP]:0 $B:1 [SEP]:1 [CLS]:2"),
    }
    if kind in templates:
        single, pair = templates[kind]
        ends = [(token, special.index(token)) for token in ("[CLS]", "[SEP]")]
        made.post_processor = processors.TemplateProcessing(
            single=single, pair=pair, special_tokens=ends
        )
    names = ["input_ids", "attention_mask"]
    if kind in ("wordpiece", "left"):
        names.append("token_type_ids")
    given = {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "padding_side": "left" if kind == "left" else "right",
        "model_input_names": names,
    }
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, **{**given, **options})


IMAGE_SIZE = 32
IMAGE_MODELS = {  # name -> configuration class and arguments, image processor and its size
    "vit": (
        "ViTConfig",
        {
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 128,
            "image_size": IMAGE_SIZE,
            "patch_size": 8,
            "initializer_range": 0.15,
        },
        "ViTImageProcessor",
        {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
    ),
    "convnext": (
        "ConvNextConfig",
        {
            "num_stages": 2,
            "hidden_sizes": [32, 64],
            "depths": [2, 2],
            "image_size": IMAGE_SIZE,
            "initializer_range": 0.15,
            "layer_scale_init_value": 1.0,
        },
        "ConvNextImageProcessor",
        {"shortest_edge": IMAGE_SIZE},
    ),
}


def build_image_model(folder: Path, name: str, labels) -> Path:
    """Write a random classifier of images into `folder`. Needs pillow."""
    import torch
    import transformers

    config_class, arguments, processor, size = IMAGE_MODELS[name]
    torch.manual_seed(0)
    config = getattr(transformers, config_class)(
        **arguments,
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
    )
    model = transformers.AutoModelForImageClassification.from_config(config)
    with torch.no_grad():  # random classifiers hardly differ by image otherwise
        model.classifier.weight.mul_(20)
    model.save_pretrained(folder)
    getattr(transformers, processor)(size=size).save_pretrained(folder)
    return folder


def draw_images(folder: Path, labels, each: int) -> Path:
    """Write `each` random images of blocks into a subfolder of every label. Needs pillow."""
    import numpy as np
    import PIL.Image

    rng = np.random.default_rng(0)
    for label in labels:
        (folder / label).mkdir(parents=True)
        for number in range(each):
            height, width = (int(n) for n in rng.integers(3, 9, 2))
            blocks = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
            image = PIL.Image.fromarray(blocks.repeat(8, 0).repeat(8, 1))
            image.save(folder / label / f"{number}.png")
    return folder
