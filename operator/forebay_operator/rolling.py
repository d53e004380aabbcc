"""What each function was last served from, so that a changed model is a rolling change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from forebay_api.function import FunctionKey
from forebay_api.model import Model
from forebay_operator.decide import change
from forebay_operator.decide.seen import FunctionSeen, Snapshot


@dataclass(slots=True)
class Rolling:
    """Remembers models, because nobody names or inspects one any more once its function names another. A restarted
    operator has forgotten them: its functions go to their new models at once."""

    _served: dict[FunctionKey, Model] = field(default_factory=dict)

    def models(self) -> Iterable[Model]:
        return self._served.values()

    def forget(self, backbone: str) -> None:
        """It must serve nobody."""
        self._served = {key: model for key, model in self._served.items() if model.backbone != backbone}

    def laid_over(self, seen: Snapshot, models: Mapping[str, Model]) -> Snapshot:
        """``seen`` with ``previous`` in its functions; ``models`` are those that functions name now."""
        named = {function.function.key for function in seen.functions}
        self._served = {key: model for key, model in self._served.items() if key in named}
        return replace(seen, functions=tuple(self._placed(function, seen, models) for function in seen.functions))

    def _placed(self, function: FunctionSeen, seen: Snapshot, models: Mapping[str, Model]) -> FunctionSeen:
        key = function.function.key
        served = self._served.get(key)
        previous = change.previous(seen, function.backbone, served.backbone) if served else ""
        if not previous and function.failure is None and function.backbone in models:
            self._served[key] = models[function.backbone]
        return replace(function, previous=previous)
