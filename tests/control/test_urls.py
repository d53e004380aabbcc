"""Where a function says that it is called."""

from __future__ import annotations

import pytest

from forebay_api.function import FunctionKey
from forebay_gateway import locate
from forebay_operator.status import Urls

KEY = FunctionKey("team", "chat")


@pytest.mark.parametrize(
    ("gateway", "domain", "url"),
    [
        ("http://gateway.system.svc", "", "http://gateway.system.svc/team/chat"),
        ("http://gateway.system.svc:8000", "", "http://gateway.system.svc:8000/team/chat"),
        ("https://llm.example.com/prefix/", "", "https://llm.example.com/prefix/team/chat"),
        ("https://gateway.system.svc", "llm.example.com", "https://chat.team.llm.example.com"),
        ("https://any:8443", "llm.example.com", "https://chat.team.llm.example.com:8443"),
        ("http://any:8000/a:1", "llm.example.com", "http://chat.team.llm.example.com:8000"),
        ("http://[fd00::1]", "llm.example.com", "http://chat.team.llm.example.com"),
        ("http://[fd00::1]:8000", "llm.example.com", "http://chat.team.llm.example.com:8000"),
    ],
)
def test_it_keeps_the_port_at_which_the_gateway_is_reached(gateway: str, domain: str, url: str) -> None:
    assert Urls(gateway, domain).of(KEY) == url
    if domain:
        assert locate.by_host(url.partition("://")[2], domain) == KEY
