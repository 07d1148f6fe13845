"""Weights that are missing, left over or of another shape are errors that name them. Heads for words are not."""

import functools
import json
import shutil
import threading
from pathlib import Path

import pytest
import torch
import transformers.modeling_utils
from helpers import tiny_col, tiny_families, tiny_jina, tiny_models, tiny_vbert, tiny_vision
from helpers.published_folders import edit, with_lora
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, BertForPreTraining

from smart_rag.encoders.loading.weights import check_weights
from smart_rag.encoders.loading.weights_report import reports_of_weights
from smart_rag.encoders.smart_encoder import SmartEncoder
from smart_rag.errors import ModelNotFound

pytestmark = pytest.mark.usefixtures("one_thread")

TEXT = "The cat sat on the mat."
BUILDERS = {
    **{name: functools.partial(tiny_families.family, name=name) for name in tiny_families.NAMES},
    "colbert": tiny_models.colbert,
    "t5": tiny_models.byt5,
    "clip": tiny_vision.clip,
    "siglip": tiny_vision.siglip,
    "qwen2-vl": tiny_vision.qwen2_vl,
    "qwen3-vl": tiny_vision.qwen3_vl,
    "colpali": tiny_vision.colpali,
    "colqwen2": tiny_vision.colqwen2,
    "jina-v4": tiny_jina.jina_v4,
    "siglip2": tiny_vision.siglip2,
    "modernvbert": tiny_vbert.modernvbert,
    "colmodernvbert": tiny_vbert.colmodernvbert,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return functools.cache(lambda name: Path(BUILDERS[name](tmp_path_factory.mktemp(name))))


def changed(folder, target, change):
    """Copy a folder, and ``change`` its largest file of tensors, which is a dict."""
    shutil.copytree(folder, target)
    file = max(target.glob("*.safetensors"), key=lambda file: file.stat().st_size)
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, {"format": "pt"})
    return target


def a_weight(tensors):
    """Return the name of a weight in the middle of the model: a matrix of a layer."""
    names = sorted(name for name, tensor in tensors.items() if tensor.ndim == 2 and "layer" in name)
    return names[len(names) // 2]


def ending(name):
    """Return the part of a name that stays the same in all releases of transformers."""
    return ".".join(name.split(".")[-3:])


@pytest.mark.parametrize("name", BUILDERS)
def test_a_missing_weight_is_named(folders, tmp_path, name, caplog):
    dropped = []

    def drop(tensors):
        dropped.append(a_weight(tensors))
        del tensors[dropped[0]]

    folder = changed(folders(name), tmp_path / "model", drop)
    with pytest.raises(ModelNotFound, match=r"weights in .*/model' do not fit.* missing in the files: ") as error:
        SmartEncoder(folder, device="cpu")
    assert ending(dropped[0]) in str(error.value)
    assert "REPORT" not in caplog.text


@pytest.mark.parametrize("name", BUILDERS)
def test_a_weight_that_is_left_over_is_named(folders, tmp_path, name):
    def add(tensors):
        tensors["custom_text_proj.weight"] = torch.zeros(4, 4)

    folder = changed(folders(name), tmp_path / "model", add)
    index = folder / tiny_jina.INDEX
    if index.exists():
        found = json.loads(index.read_text())
        found["weight_map"]["custom_text_proj.weight"] = tiny_jina.SHARDS[0]
        index.write_text(json.dumps(found))
    with pytest.raises(ModelNotFound, match=r"in the files, but not in the model: '\S*custom_text_proj.weight'\. "):
        SmartEncoder(folder, device="cpu")


@pytest.mark.parametrize("name", ["bert", "qwen3-vl", "colpali"])
def test_a_weight_of_another_shape_is_named(folders, tmp_path, name):
    """With ``ignore_mismatched_sizes``, transformers would fill it at random."""

    def cut(tensors):
        key = a_weight(tensors)
        tensors[key] = tensors[key][:-1].contiguous()

    folder = changed(folders(name), tmp_path / "model", cut)
    for options in ({}, {"model_kwargs": {"ignore_mismatched_sizes": True}}):
        with pytest.raises(ModelNotFound, match=r"of another shape: '\S+' \(\d+, \d+\) instead of \(\d+, \d+\)\. "):
            SmartEncoder(folder, device="cpu", model_options=options)


@pytest.mark.parametrize(("name", "dense"), [("bert", "2_Dense"), ("colbert", "1_Dense")])
@pytest.mark.parametrize("problem", ["missing", "left over", "another shape"])
def test_a_dense_layer_is_checked_by_sentence_transformers(tmp_path, name, dense, problem):
    folder = Path(
        {"bert": functools.partial(tiny_models.bert, dense=24), "colbert": BUILDERS["colbert"]}[name](tmp_path)
    )
    file = folder / dense / "model.safetensors"
    tensors = load_file(file)
    if problem == "missing":
        del tensors["linear.weight"]
        tensors["other.weight"] = torch.zeros(16)  # a file without tensors is none
    elif problem == "left over":
        tensors["further.weight"] = torch.zeros(1)
    else:
        tensors["linear.weight"] = tensors["linear.weight"][:, 1:].contiguous()
    save_file(tensors, file, {"format": "pt"})
    names = {"missing": "linear.weight", "left over": "further.weight", "another shape": "linear.weight"}
    with pytest.raises(ModelNotFound, match=rf"cannot load the model folder.*\b{names[problem]}\b"):
        SmartEncoder(folder, device="cpu")


@pytest.mark.parametrize("name", tiny_families.NAMES)
def test_a_head_for_words_is_no_error(tmp_path, name, caplog):
    """A checkpoint that was trained to predict words gives the embeddings of the model below its head."""
    folder = tiny_families.family(tmp_path, name, head=True)
    encoder = SmartEncoder(folder, device="cpu")
    assert "REPORT" not in caplog.text
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), encoder.model.tokenizer
    features = tokenizer(TEXT, return_tensors="pt")
    features = {key: value for key, value in features.items() if key in ("input_ids", "attention_mask")}
    with torch.inference_mode():
        states = model(**features).last_hidden_state[0]
        ours = encoder.model(dict(features))["token_embeddings"][0]
    torch.testing.assert_close(ours, states, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("DistilBertForMaskedLM", {"dim": 32, "hidden_dim": 64, "n_layers": 1, "n_heads": 2}),
        ("AlbertForPreTraining", {"embedding_size": 16}),
        ("ElectraForPreTraining", {"embedding_size": 16}),
        ("XLMRobertaForSequenceClassification", {}),
        ("GPTNeoXForCausalLM", {}),
        ("BertForSequenceClassification", {}),
        ("RobertaForMaskedLM", {}),
        ("DebertaV2ForMaskedLM", {}),
        ("DebertaV2ForSequenceClassification", {}),
        ("ModernBertForMaskedLM", {"bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}),
        (
            "ModernBertForTokenClassification",
            {"bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3},
        ),
        ("Qwen3ForSequenceClassification", {"num_key_value_heads": 1, "head_dim": 16}),
    ],
)
@pytest.mark.parametrize("is_named", [True, False], ids=["named", "not named"])
def test_the_head_of_a_class_is_no_error(tmp_path, name, sizes, is_named):
    """config.json names the class, or it names none, as that of DeBERTa-v3. Then another weight is still an error."""
    model_class, tokenizer = getattr(transformers, name), tiny_models.wordpiece()
    usual = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = model_class.config_class(
        vocab_size=len(tokenizer), pad_token_id=0, **({} if "dim" in sizes else usual), **sizes
    )
    model_class(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    if not is_named:
        edit(tmp_path, architectures=None)
    SmartEncoder(tmp_path, device="cpu")
    file = tmp_path / "model.safetensors"
    save_file({**load_file(file), "custom_text_proj.weight": torch.zeros(4, 4)}, file, {"format": "pt"})
    with pytest.raises(ModelNotFound, match=r"not in the model: '\S*custom_text_proj.weight'\. "):
        SmartEncoder(tmp_path, device="cpu")


def test_layout_of_deberta_v3(tmp_path):
    """microsoft/deberta-v3-base: ``deberta.*`` and two heads of its training in a ``.bin`` file, and no class."""
    tokenizer = tiny_models.wordpiece()
    config = transformers.DebertaV2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2
    )
    tensors = {f"deberta.{name}": value for name, value in transformers.DebertaV2Model(config).state_dict().items()}
    tensors["deberta.embeddings.position_ids"] = torch.arange(512)[None]
    for head in ("lm_predictions.lm_head.dense", "lm_predictions.lm_head.LayerNorm", "mask_predictions.dense"):
        tensors[f"{head}.weight"] = torch.zeros(32)
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    config.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    edit(tmp_path, architectures=None)
    SmartEncoder(tmp_path, device="cpu")


@pytest.mark.parametrize("name", ["bert", "qwen3-vl", "colqwen2", "jina-v4"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_without_a_number_is_named(folders, tmp_path, name, value):
    """Otherwise, embeddings would be NaN, or only those of the texts that meet it."""
    spoiled = []

    def spoil(tensors):
        spoiled.append(a_weight(tensors))
        tensors[spoiled[0]].view(-1)[7] = value

    folder = changed(folders(name), tmp_path / "model", spoil)
    with pytest.raises(ModelNotFound, match=r"NaN or infinity is in '") as error:
        SmartEncoder(folder, device="cpu")
    assert ending(spoiled[0]) in str(error.value)


def test_a_lora_or_a_pooler_without_a_number(folders, tmp_path):
    """peft would name no tensor. No embedding needs the pooler."""
    base = Path(tiny_col.col_qwen(tmp_path / "base", "ColQwen2_5"))
    col = Path(tiny_col.lora(tmp_path / "col", base))
    text = tmp_path / "text"
    lora = LoraConfig(r=2, target_modules=["query", "value"], init_lora_weights=False)
    with_lora(AutoModel.from_pretrained(folders("bert")), lora).save_pretrained(text)
    for folder, options in ((col, {}), (text, {"base_model": folders("bert")})):
        file = folder / "adapter_model.safetensors"
        tensors = load_file(file)
        name = max(tensors)
        tensors[name].view(-1)[0] = float("nan")
        save_file(tensors, file, {"format": "pt"})
        with pytest.raises(ModelNotFound, match=rf"damaged.* NaN or infinity is in .*{ending(name)}"):
            SmartEncoder(folder, device="cpu", **options)

    def spoil(tensors):
        tensors["pooler.dense.weight"].view(-1)[0] = float("nan")

    SmartEncoder(changed(folders("bert"), tmp_path / "pooler", spoil), device="cpu")


def test_a_missing_pooler_is_no_error_and_not_in_the_fingerprint(tmp_path):
    """No embedding needs BERT's pooler. Its random numbers would give each loading another fingerprint."""
    folder = tiny_families.family(tmp_path, "bert", add_pooling_layer=False)
    assert not any("pooler" in name for name in load_file(Path(folder) / "model.safetensors"))
    first, second = (SmartEncoder(folder, device="cpu") for _ in range(2))
    assert first.model.transformers_model.pooler is None
    assert first.fingerprint == second.fingerprint
    assert first.encode_document([TEXT]).pooled.shape == (1, 32)


def test_layout_of_bert_base(tmp_path):
    """bert-base-uncased: ``bert.*`` with the pooler, both heads of the training, and buffers of old releases."""
    folder = Path(tiny_families.family(tmp_path / "masked", "bert", head=True))
    config = json.loads((folder / "config.json").read_text())
    model = BertForPreTraining(tiny_families.BertConfig(**config))
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tensors["bert.embeddings.position_ids"] = torch.arange(80)[None]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    assert {name.split(".")[0] for name in tensors} == {"bert", "cls"}
    SmartEncoder(folder, device="cpu")


@pytest.mark.parametrize("half", ["A", "B", "AB"])
def test_a_missing_half_of_a_lora_is_named(tmp_path, half):
    """sentence-transformers saves a model with an adapter of peft as the name of its base, and the adapter alone."""
    model = SentenceTransformer(tiny_models.bert(tmp_path), device="cpu")
    model.add_adapter(LoraConfig(r=2, target_modules=["query", "value"], init_lora_weights=False))
    folder = tmp_path / "adapter"
    model.save(str(folder), create_model_card=False)
    SmartEncoder(folder, device="cpu")
    file = folder / "adapter_model.safetensors"
    name = "encoder.layer.1.attention.self.value.lora_"
    dropped = [f"base_model.model.{name}{each}.weight" for each in half]
    save_file({key: tensor for key, tensor in load_file(file).items() if key not in dropped}, file, {"format": "pt"})
    with pytest.raises(ModelNotFound, match=rf"its file lacks '{name}{half[0]}"):
        SmartEncoder(folder, device="cpu")


def test_a_folder_without_the_list_of_its_modules(tmp_path):
    """Its texts would be pooled by their mean."""
    folder = Path(tiny_models.bert(tmp_path, pooling="cls"))
    (folder / "modules.json").unlink()
    with pytest.raises(ModelNotFound, match=r"has 1_Pooling/config.json, but no modules.json.* take the mean"):
        SmartEncoder(folder, device="cpu")


@pytest.mark.parametrize("missing", ["vocabulary", "projection", "metadata"])
def test_files_without_which_a_number_would_be_made_up(folders, tmp_path, missing):
    """sentence-transformers and transformers make an empty tokenizer, a random projection and default lengths."""
    folder, message = tmp_path / "model", ""
    if missing == "vocabulary":
        shutil.copytree(folders("bert"), folder)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            (folder / file).unlink()
        message = r"the tokenizer of .*/model' has only 5 special tokens and no words; expected .*tokenizer.json"
    else:
        shutil.copytree(folders("colbert"), folder)
        (folder / "modules.json").unlink()
        message = r"/model' is a model for late interaction without modules.json.* at random"
    if missing == "metadata":
        (folder / "config_sentence_transformers.json").unlink()
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"architectures": ["HF_ColBERT"]}))
        tensors = load_file(folder / "model.safetensors")
        save_file(tensors | {"linear.weight": torch.ones(16, 32)}, folder / "model.safetensors", {"format": "pt"})
        message = r"/model' is a ColBERT without its artifact.metadata.* lengths"
    with pytest.raises(ModelNotFound, match=message):
        SmartEncoder(folder, device="cpu")
    if missing == "metadata":
        (folder / "artifact.metadata").write_text(json.dumps({"query_maxlen": 24, "doc_maxlen": 48}))
        assert SmartEncoder(folder, device="cpu").dimension == 16


@pytest.mark.parametrize("build", [tiny_vision.qwen2_vl, tiny_vision.qwen3_vl])
def test_a_decoder_without_its_chat_template(tmp_path, build):
    """Its texts would go without the words that its last token follows in the training."""
    folder = Path(build(tmp_path))
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ModelNotFound, match=r"has no chat template.*chat_template.jinja"):
        SmartEncoder(folder, device="cpu")


def test_reports_are_those_of_the_thread_and_then_the_logger_again(folders, tmp_path, caplog):
    folder = changed(folders("bert"), tmp_path / "model", lambda tensors: tensors.pop(a_weight(tensors)))

    def load():
        AutoModel.from_pretrained(folder)

    with reports_of_weights() as mine:
        other = threading.Thread(target=load)
        other.start()
        other.join()
        assert "LOAD REPORT" in caplog.text
        assert not mine
        caplog.clear()
        with reports_of_weights() as inner:
            load()
        assert (len(inner), len(mine)) == (1, 0)
        load()
        assert len(mine) == 1
        assert not caplog.records
    load()
    assert "LOAD REPORT" in caplog.text
    encoder = SmartEncoder(folders("bert"), device="cpu")
    with pytest.raises(ModelNotFound, match="missing in the files"):
        check_weights("model", encoder.model, mine)


def test_the_report_of_transformers_5_0():
    """There, the names of tensors are arguments of their own."""
    with reports_of_weights() as found:
        transformers.modeling_utils.log_state_dict_report(
            model="a model",
            load_config=None,
            logger=None,
            error_msgs=[],
            missing_keys={"a"},
            unexpected_keys={"b"},
            mismatched_keys={("c", (1,), (2,))},
            mismatched_shapes=[((1,), (2,))],
        )
    assert (found[0].missing, found[0].unexpected, found[0].mismatched) == ({"a"}, {"b"}, {"c": ((1,), (2,))})
