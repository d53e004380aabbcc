"""Which function a request means: by host, by path, or by its ``model``."""

from __future__ import annotations

from forebay_api.function import FunctionKey
from forebay_gateway import errors
from forebay_gateway.ask import Ask, TokenIds
from forebay_gateway.roster import Roster, Route


def by_host(host: str, domain: str) -> FunctionKey | None:
    """Of ``<function>.<namespace>.<domain>``, with or without a port; None for any other host.

    Raises PathNotFound for a host of the domain that names no function.
    """
    name = host.rpartition(":")[0] if ":" in host and not host.endswith("]") else host
    name = name.rstrip(".").lower()
    if not domain or not name.endswith(f".{domain}"):
        return None
    function, _, namespace = name.removesuffix(f".{domain}").partition(".")
    if not function or not namespace or "." in namespace:
        raise errors.PathNotFound(f"{name} is not <function>.<namespace>.{domain}")
    return FunctionKey(namespace, function)


def find(roster: Roster, address: FunctionKey | None, model: str | None) -> Route:
    """The function at this address, or the one that ``model`` names. Raises ModelNotFound and InvalidRequest."""
    if address is None:
        if not model:
            raise errors.InvalidRequest("model: expected the name of a function, got none", param="model")
        if route := roster.by_model(model):
            return route
        if several := " or ".join(str(route.key) for route in roster.contenders(model)):
            raise errors.ModelNotFound(f"model: {model!r} may be any of several: expected {several}", param="model")
        raise errors.ModelNotFound(f"the model {model!r} does not exist", param="model")
    route = roster.functions.get(address)
    if route is None:
        raise errors.ModelNotFound(f"the function {address} does not exist", param="model")
    if model and model not in route.names:
        raise errors.ModelNotFound(
            f"the model {model!r} does not exist here: this is {route.model_name!r}", param="model"
        )
    return route


def check_length(ask: Ask, route: Route) -> None:
    """What can be refused before a head counts tokens. Raises InvalidRequest and ContextTooLong."""
    limit = route.max_model_len
    if not limit:
        return
    wanted = ask.sampling.max_tokens
    if wanted > limit:
        raise errors.InvalidRequest(
            f"max_tokens: {wanted} is too large: {route.model_name} takes {limit} tokens, prompt and answer together",
            param="max_tokens",
        )
    for prompt in ask.prompts:
        # At least one token must fit behind the prompt.
        if isinstance(prompt, TokenIds) and len(prompt.ids) + max(wanted, 1) > limit:
            raise errors.ContextTooLong(
                f"{len(prompt.ids)} tokens of prompt and {max(wanted, 1)} of answer are more than "
                f"the {limit} that {route.model_name} takes",
                param="prompt",
            )


def listed(roster: Roster, address: FunctionKey | None) -> list[dict[str, object]]:
    """Models as ``/v1/models`` shows them; one whose name others have goes by ``namespace/name``. Raises
    ModelNotFound for an address of no function."""
    routes = roster.functions.values() if address is None else (find(roster, address, None),)
    return [described(roster, route) for route in routes]


def described(roster: Roster, route: Route) -> dict[str, object]:
    winner = roster.by_model(route.model_name)
    return {
        "id": route.model_name if winner is route else str(route.key),
        "object": "model",
        "created": int(route.created),
        "owned_by": route.key.namespace,
        "max_model_len": route.max_model_len or None,
    }
