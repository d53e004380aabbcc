"""Streamed text is the decoded text, whatever the tokens; stop strings end it exactly."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import AutoTokenizer

from forebay_worker.engine import text as text_module
from forebay_worker.engine.text import ChatError, Detokeniser, Text, TextError, TooLong

Tiny = Callable[[str], Path]
LIMIT = 1 << 20
"""Tokens; more than anything here has."""


def sentence_piece(folder: Path) -> Path:
    """A tokenizer as those of Llama 2: ▁ for a space, bytes for what has no letter, one space dropped in front."""
    words = ["▁", "▁the", "▁a", "he", "b", "é", "▁▁"]
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    ids = {name: index for index, name in enumerate(names)}
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=[], byte_fallback=True, unk_token="<unk>"))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in ("<unk>", "<s>", "</s>")])
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", "clean_up_tokenization_spaces": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, smollm2: Path, tiny: Tiny) -> dict[str, Path]:
    pieces = sentence_piece(tmp_path_factory.mktemp("sentence-piece"))
    return {"smollm2": smollm2, "tiny": tiny("llama"), "sentence piece": pieces}


@pytest.fixture(scope="module")
def texts(folders: dict[str, Path]) -> dict[str, Text]:
    return {name: Text(folder) for name, folder in folders.items()}


@pytest.fixture(scope="module")
def tokenizers(folders: dict[str, Path]) -> dict[str, Any]:
    return {name: AutoTokenizer.from_pretrained(folder) for name, folder in folders.items()}


def stream(text: Text, tokens: Sequence[int], stop: tuple[str, ...] = (), prompt: Sequence[int] = ()) -> str:
    detokeniser = Detokeniser(text, stop, prompt)
    pieces = [detokeniser.push(token) for token in tokens]
    return "".join(piece.text for piece in [*pieces, detokeniser.flush()])


@settings(deadline=None, max_examples=150)
@given(data=st.data(), name=st.sampled_from(["smollm2", "tiny"]))
def test_any_byte_level_tokens(
    texts: dict[str, Text], tokenizers: dict[str, Any], data: st.DataObject, name: str
) -> None:
    size = 49152 if name == "smollm2" else 600  # the tiny one has 512: ids without a token say nothing
    tokens = data.draw(st.lists(st.integers(0, size - 1), max_size=30))
    assert stream(texts[name], tokens) == tokenizers[name].decode(tokens, skip_special_tokens=True)


@settings(deadline=None, max_examples=60)
@given(words=st.lists(st.sampled_from(["▁", "▁the", "he", "▁▁", "</s>", "é", "你", "👩‍👧"]), max_size=12))
def test_sentence_piece_tokens(texts: dict[str, Text], tokenizers: dict[str, Any], words: list[str]) -> None:
    tokenizer, text = tokenizers["sentence piece"], texts["sentence piece"]
    vocabulary = tokenizer.get_vocab()
    tokens = [
        token
        for word in words
        for token in ([vocabulary[word]] if word in vocabulary else [vocabulary[f"<0x{b:02X}>"] for b in word.encode()])
    ]
    assert stream(text, tokens) == tokenizer.decode(tokens, skip_special_tokens=True)
    a, the = vocabulary["▁a"], vocabulary["▁the"]
    assert stream(text, [the], prompt=[a]) == " the", "what follows a text keeps its space"


@settings(deadline=None, max_examples=100)
@given(
    words=st.lists(st.sampled_from(["a", "ab", " aba", "b", "日本", "!", "STOP", "ST"]), max_size=20),
    stop=st.lists(st.sampled_from(["aba", "abab", "本!", "STOP", "b!", "a"]), max_size=3),
)
def test_stop_strings_end_the_text_exactly(texts: dict[str, Text], words: list[str], stop: list[str]) -> None:
    text = texts["tiny"]
    whole = "".join(words)
    ends = [whole.find(each) for each in stop if each in whole]
    detokeniser = Detokeniser(text, tuple(stop))
    shown = ""
    for token in text.encode_text(whole, LIMIT):
        piece = detokeniser.push(token)
        shown += piece.text
        if piece.stopped:
            assert shown == whole[: min(ends)]
            assert detokeniser.push(token).text == detokeniser.flush().text == ""
            return
        assert not any(each in shown for each in stop)
    assert not ends
    assert shown + detokeniser.flush().text == whole


@settings(deadline=None, max_examples=60)
@given(words=st.lists(st.sampled_from(["é", "日", "ab", "STOP", "x"]), min_size=1), data=st.data())
def test_a_replay_goes_on_where_it_left(texts: dict[str, Text], words: list[str], data: st.DataObject) -> None:
    text = texts["smollm2"]
    tokens = text.encode_text("".join(words), LIMIT)
    cut = data.draw(st.integers(0, len(tokens)))
    first, again = Detokeniser(text, ("STOPx",)), Detokeniser(text, ("STOPx",))
    for token in tokens[:cut]:
        assert first.push(token) == again.push(token)
    assert [first.push(token) for token in tokens[cut:]] == [again.push(token) for token in tokens[cut:]]


def test_chat(texts: dict[str, Text], tokenizers: dict[str, Any]) -> None:
    text, tokenizer = texts["smollm2"], tokenizers["smollm2"]
    parts = [{"type": "text", "text": "Hello"}, {"type": "text", "text": "you"}]
    ids = text.encode_chat([{"role": "user", "content": parts}], LIMIT)
    assert tokenizer.decode(ids).endswith("<|im_start|>user\nHello\nyou<|im_end|>\n<|im_start|>assistant\n")
    plain = [{"role": "user", "content": "Hello\nyou"}]
    wanted = tokenizer.apply_chat_template(plain, add_generation_prompt=True, return_dict=False)
    assert ids == wanted == text.encode_chat(plain, LIMIT)
    assert text.eos == {tokenizer.eos_token_id}


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}], "type 'image_url'"),
        ([{"role": "user", "content": 5}], "content is int"),
        ([{"content": "x"}], "chat template refuses"),
    ],
)
def test_messages_that_make_no_prompt(messages: list[dict[str, Any]], complaint: str, texts: dict[str, Text]) -> None:
    with pytest.raises(ChatError, match=complaint):
        texts["smollm2"].encode_chat(messages, LIMIT)


def test_a_model_without_a_chat_template_says_so(texts: dict[str, Text]) -> None:
    with pytest.raises(ChatError, match="no chat template"):
        texts["sentence piece"].encode_chat([{"role": "user", "content": "x"}], LIMIT)


@pytest.mark.parametrize(
    ("template", "raised", "says"),
    [
        (
            "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}",
            TooLong,
            "more than 1000 lett",
        ),
        ("{{ 1 / 0 }}", ChatError, "chat template refuses them"),
        ("{{ [].pop() }}", ChatError, "chat template refuses them"),
    ],
)
def test_a_template_may_do_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, template: str, raised: type[Exception], says: str
) -> None:
    monkeypatch.setattr(text_module, "MOST_LETTERS", 1000)
    folder = sentence_piece(tmp_path / "model")
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(raised, match=says):
        Text(folder).encode_chat([{"role": "user", "content": "x"}], LIMIT)


def test_a_folder_without_a_tokenizer_says_so(tmp_path: Path) -> None:
    with pytest.raises(TextError, match="no usable tokenizer"):
        Text(tmp_path)


def test_ends_come_from_every_file(tmp_path: Path) -> None:
    folder = sentence_piece(tmp_path / "model")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [9, 8]}))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "eos_token_id": 7}))
    assert Text(folder).eos == {2, 7, 8, 9}


def test_a_model_without_a_tokenizer_is_refused(tmp_path: Path, tiny: Tiny) -> None:
    (tmp_path / "config.json").write_text((tiny("llama") / "config.json").read_text())
    with pytest.raises(TextError, match=r"no usable tokenizer; must have one of tokenizer\.json"):
        Text(tmp_path)


def test_what_cannot_fit_is_not_read(texts: dict[str, Text]) -> None:
    text = texts["smollm2"]
    assert len(text.encode_text(" river" * 100, 100)) == 100
    with pytest.raises(TooLong, match="6000000 bytes"):
        text.encode_text(" river" * 1_000_000, 100)
    with pytest.raises(TooLong, match="bytes"):
        text.encode_chat([{"role": "user", "content": " river" * 1_000_000}], 100)
