"""Uris are parsed strictly, and what is refused says why without repeating a password."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay_worker.artifact.uri import InvalidUri, Scheme, Uri, parse


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("file:///models/a%20b", Uri(Scheme.FILE, "", "/models/a b")),
        ("file:///models/a b", Uri(Scheme.FILE, "", "/models/a b")),
        ("hf://org/name", Uri(Scheme.HF, "", "org/name")),
        ("hf://Qwen/Qwen2.5-0.5B:refs/pr/1", Uri(Scheme.HF, "", "Qwen/Qwen2.5-0.5B", "refs/pr/1")),
        ("hf://org/name@v1.0", Uri(Scheme.HF, "", "org/name", "v1.0")),
        ("s3://bucket", Uri(Scheme.S3, "bucket", "")),
        ("s3://my.bucket-1/a/b/", Uri(Scheme.S3, "my.bucket-1", "a/b")),
        ("https://Example.com:8443/a/b/", Uri(Scheme.HTTPS, "example.com:8443", "a/b")),
        ("https://10.0.0.1/m", Uri(Scheme.HTTPS, "10.0.0.1", "m")),
    ],
)
def test_what_is_right(text: str, found: Uri) -> None:
    assert parse(text) == found


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "can be only file:///absolute/path, hf://"),
        ("http://host/folder", "can be only"),
        ("gs://bucket/m", "can be only"),
        ("file://host/m", "only file:///absolute/path"),
        ("file:relative", "can be only"),
        ("hf://name", "must be hf://org/name"),
        ("hf://a/b/c", "must be hf://org/name"),
        ("hf://org/..", "must be hf://org/name"),
        ("hf://org/name:", "the revision must be"),
        ("hf://org/name:../x", "the revision must be"),
        ("hf://org/name:a b", "can be only"),
        ("s3://Bucket/x", "must be s3://bucket/prefix"),
        ("s3://b/x", "must be s3://bucket/prefix"),
        ("s3://bucket/a//b", "a path has parts"),
        ("s3://bucket/../other", "a path has parts"),
        ("https://", "must be https://host/folder/"),
        ("https://host:0/m", "must be https://host/folder/"),
        ("https://host/m?token=1", "names a folder"),
        ("https://host/m#part", "names a folder"),
        ("https://host/a/%2E%2e/b", "a path has parts"),
        ("https://host/a\x00", "can be only"),
        ("hf://org/" + "n" * 1020, "at most 1024"),
    ],
)
def test_what_is_wrong(text: str, says: str) -> None:
    with pytest.raises(InvalidUri, match=says.replace("?", r"\?")):
        parse(text)


@pytest.mark.parametrize("text", ["https://user:hunter2@host/m", "https://host/m?sig=hunter2", "https://h unter2/"])
def test_a_password_is_not_repeated(text: str) -> None:
    with pytest.raises(InvalidUri) as refused:
        parse(text)
    assert "unter2" not in str(refused.value)


SCHEMES = st.sampled_from(["", "file://", "hf://", "s3://", "https://"])
NEARLY = st.text(st.sampled_from("aZ0.-_/:@?#% %\0é"))


@given(st.builds(str.__add__, SCHEMES, st.one_of(st.text(), NEARLY)))
def test_whatever_comes_is_parsed_or_refused_and_names_itself(text: str) -> None:
    try:
        found = parse(text)
    except InvalidUri:
        return
    assert parse(text).identity == found.identity
    if found.scheme is not Scheme.FILE:
        assert parse(str(found)) == found
        assert "/../" not in f"/{found.path}/"
        assert str(found).isprintable()
        assert " " not in str(found)
