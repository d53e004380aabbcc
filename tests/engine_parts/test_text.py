"""Streamed text is the decoded text, whatever the tokens; stop strings end it exactly."""

from __future__ import annotations

import json
import shutil
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
from forebay_worker.model.generation import Defaults, defaults

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


@settings(max_examples=150)
@given(data=st.data(), name=st.sampled_from(["smollm2", "tiny"]))
def test_any_byte_level_tokens(
    texts: dict[str, Text], tokenizers: dict[str, Any], data: st.DataObject, name: str
) -> None:
    size = 49152 if name == "smollm2" else 600  # the tiny one has 512: ids without a token say nothing
    tokens = data.draw(st.lists(st.integers(0, size - 1), max_size=30))
    assert stream(texts[name], tokens) == tokenizers[name].decode(tokens, skip_special_tokens=True)


@settings(max_examples=60)
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


@settings(max_examples=100)
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


@settings(max_examples=100)
@given(
    words=st.lists(st.sampled_from(["a", "ab", " aba", "日本", "ST"]), max_size=20),
    stop=st.lists(st.sampled_from(["aba", "abab", "ab", "本a", "STa"]), max_size=3),
    data=st.data(),
)
def test_a_stop_string_that_ends_too_early_does_not_count(
    texts: dict[str, Text], words: list[str], stop: list[str], data: st.DataObject
) -> None:
    text = texts["tiny"]
    tokens = text.encode_text("".join(words), LIMIT)
    least = data.draw(st.integers(0, len(tokens)))
    whole, deaf = stream(text, tokens), len(stream(text, tokens[:least]).removesuffix("\ufffd"))
    ends = [
        start
        for each in stop
        for start in range(len(whole))
        if whole.startswith(each, start) and start + len(each) > deaf
    ]
    detokeniser = Detokeniser(text, tuple(stop))
    shown = ""
    for index, token in enumerate(tokens):
        piece = detokeniser.push(token, stops=index >= least)
        shown += piece.text
        if piece.stopped:
            break
    else:
        shown += detokeniser.flush().text
    # The first to be complete wins: one that begins earlier and is longer comes too late.
    done = [end for end in ends if shown == whole[:end]]
    assert done or (not ends and shown == whole)


@settings(max_examples=60)
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


def test_a_template_is_given_what_the_caller_says(tmp_path: Path, folders: dict[str, Path]) -> None:
    folder = shutil.copytree(folders["smollm2"], tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    template = "{{ messages[0].content }}{% if enable_thinking is defined and not enable_thinking %} quick{% endif %}"
    (folder / "chat_template.jinja").write_text(template)
    text, messages = Text(folder), [{"role": "user", "content": "be"}]
    assert text.encode_chat(messages, LIMIT) == text.encode_text("be", LIMIT)
    assert text.encode_chat(messages, LIMIT, {"enable_thinking": False}) == text.encode_text("be quick", LIMIT)
    for name in ("messages", "tokenize", "chat_template", "add_generation_prompt", "eos_token"):
        with pytest.raises(ChatError, match=f"chat_template_kwargs: '{name}' is not the caller's"):
            text.encode_chat(messages, LIMIT, {name: True})


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


def test_how_a_model_wants_to_be_sampled(tmp_path: Path, texts: dict[str, Text]) -> None:
    """Numbers count; do_sample, null and nonsense do not."""
    assert texts["smollm2"].sampling == Defaults()
    folder = sentence_piece(tmp_path / "model")
    said = {"do_sample": False, "temperature": 0.6, "top_k": 20, "top_p": None, "repetition_penalty": 1.05}
    (folder / "generation_config.json").write_text(json.dumps({**said, "eos_token_id": 9}))
    assert Text(folder).sampling == Defaults(temperature=0.6, top_k=20, repetition_penalty=1.05)
    wrong = {"temperature": -1, "top_p": "high", "top_k": 2.5, "min_p": True, "repetition_penalty": 0}
    for name, value in wrong.items():
        found = defaults({"temperature": 0.5, name: value})
        assert found == (Defaults() if name == "temperature" else Defaults(temperature=0.5))


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


def test_a_prompt_is_neither_cut_nor_filled_up(tmp_path: Path, folders: dict[str, Path]) -> None:
    """tokenizer.json may carry what its trainer did to texts."""
    folder = shutil.copytree(folders["smollm2"], tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    file = str(folder / "tokenizer.json")
    tokenizer = Tokenizer.from_file(file)
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=8)
    tokenizer.save(file)
    text = Text(folder)
    assert len(text.encode_text("a river " * 20, LIMIT)) > 8
    assert len(text.encode_text("a", LIMIT)) == 1
    assert text.encode_chat([{"role": "user", "content": "a"}], LIMIT) == Text(folders["smollm2"]).encode_chat(
        [{"role": "user", "content": "a"}], LIMIT
    )
